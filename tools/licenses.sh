#!/usr/bin/env bash
# usage: tools/licenses.sh
# Writes LICENSES/modules.txt: the licences of all Go modules that are that the
# module's packages import, with any combination of build tags that is shipped, and Go's own.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p LICENSES
{
  echo "Licences of the Go modules linked into metacap. Written by tools/licenses.sh."
  printf '\n==== std %s\n\n' "$(go env GOVERSION)"
  cat "$(go env GOROOT)/LICENSE"
  for tags in "" nocuda nodemo; do
    go list -deps -tags "$tags" -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./...
  done | sort -u | while read -r path version dir; do
    printf '\n==== %s %s\n' "$path" "$version"
    found=
    for name in LICENSE LICENSE.txt LICENSE.md COPYING NOTICE; do
      if [ -f "$dir/$name" ]; then printf '\n'; cat "$dir/$name"; found=1; fi
    done
    [ -n "$found" ] || { echo "licenses: $path: no licence file in $dir" >&2; exit 1; }
  done
} > LICENSES/modules.txt
