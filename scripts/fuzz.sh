#!/bin/sh
# Runs every fuzz target of the module for the given time each.
set -eu
time=$1
grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' cmd gateway internal | sort | while IFS=: read -r file func; do
	name=${func#func }
	REQUIRE_ENV=1 go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "./$(dirname "$file")" </dev/null
done
