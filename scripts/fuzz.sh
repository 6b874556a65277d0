#!/bin/sh
# Runs every fuzz target of the module for the given time each.
set -eu
time=$1
out=$(mktemp)
trap 'rm -f "$out"' EXIT
grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' cmd gateway internal | sort | while IFS=: read -r file func; do
	name=${func#func }
	status=0
	REQUIRE_ENV=1 go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "./$(dirname "$file")" >"$out" 2>&1 </dev/null || status=$?
	cat "$out"
	# Time that runs out in the middle of an input is reported as a failure of
	# the target; one that was found comes with the input (golang/go#48591).
	if [ "$status" != 0 ] && grep -q 'context deadline exceeded' "$out" && ! grep -q 'Failing input' "$out"; then
		status=0
	fi
	[ "$status" = 0 ] || exit "$status"
done
