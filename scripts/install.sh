#!/bin/sh
# Installs what Weir needs on this machine and the machine lacks. Arguments:
#   run    Postgres: its server programs; no cluster of the system is made
#   bench  besides, Redis: its server program; no service of the system is started
#   test   besides, a C compiler, which go test -race needs, and what the tests of
#          deployments/ drive: nginx and Caddy, their programs, and Django with its REST
#          framework and an ASGI server; no service of the system is started
set -eu

has_postgres() {
	for bin in "$(dirname "$(command -v postgres || echo /)")" "$(pg_config --bindir 2>/dev/null || echo /)" \
		/usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* \
		/opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
		[ -x "$bin/postgres" ] && [ -x "$bin/initdb" ] && return 0
		# A link in PATH may leave its companions where it points.
		[ -x "$bin/postgres" ] && [ -x "$(dirname "$(readlink -f "$bin/postgres")")/initdb" ] && return 0
	done
	return 1
}

has_compiler() {
	command -v "${CC:-cc}" >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null
}

has_django() {
	for python in python3 /usr/bin/python3; do
		"$python" -c 'import rest_framework, uvicorn' 2>/dev/null && return 0
	done
	return 1
}

missing=
has_postgres || missing="postgresql"
if [ "${1:-run}" = test ] && ! has_compiler; then
	missing="$missing gcc libc6-dev"
fi
if [ "${1:-run}" = test ] && ! has_django; then
	missing="$missing python3-djangorestframework python3-uvicorn"
fi
if [ "${1:-run}" = test ] && ! command -v nginx >/dev/null && ! [ -x /usr/sbin/nginx ]; then
	missing="$missing nginx"
fi
if [ "${1:-run}" = test ] && ! command -v caddy >/dev/null; then
	missing="$missing caddy"
fi
if [ "${1:-run}" != run ] && ! command -v redis-server >/dev/null; then
	missing="$missing redis-server"
fi
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
	cat >&2 <<-MESSAGE
		install.sh: missing here: $missing. Install with
		  Fedora: sudo dnf install postgresql-server gcc nginx caddy redis
		  Alpine: sudo apk add postgresql gcc musl-dev nginx caddy redis
		  macOS:  brew install postgresql nginx caddy redis
		  Python: pip install djangorestframework uvicorn
		and start again.
	MESSAGE
	exit 1
fi

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		echo "install.sh: missing here: $missing. As root: apt-get update && apt-get install $missing" >&2
		exit 1
	fi
}

echo "install.sh: installing $missing" >&2
install() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
}
as_root apt-get update
case $missing in
*postgresql*)
	# Only the programs are wanted, so the package must not make a cluster of
	# its own and start it. It reads this setting from the common package.
	install postgresql-common
	conf=/etc/postgresql-common/createcluster.conf
	if grep -q '^ *create_main_cluster' "$conf" 2>/dev/null; then
		install postgresql
	else
		echo 'create_main_cluster = false' | as_root tee -a "$conf" >/dev/null
		status=0
		install postgresql || status=$?
		as_root sed -i '/^create_main_cluster = false$/d' "$conf"
		[ "$status" = 0 ] || exit "$status"
	fi
	;;
esac
policy=/usr/sbin/policy-rc.d
case $missing in
*redis-server* | *nginx* | *caddy*)
	# Likewise no service: the packages start theirs unless this script forbids that.
	if ! [ -e "$policy" ]; then
		trap 'as_root rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
		as_root chmod +x "$policy"
	fi
	;;
esac
# shellcheck disable=SC2086 # a list of words
install $missing
