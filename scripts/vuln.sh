#!/bin/sh
# Looks for known vulnerabilities in what the programs call. Where their
# database cannot be reached it says so and passes.
set -u
out=$(go tool -modfile=tools/go.mod govulncheck ./... 2>&1)
status=$?
echo "$out"
case $out in
*"fetching vulnerabilities"*)
	echo "vuln.sh: SKIPPED: the vulnerability database cannot be reached"
	exit 0
	;;
esac
exit "$status"
