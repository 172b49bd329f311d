# shellcheck shell=sh
# The go command's settings for labk itself. Building, vet, staticcheck and tests share them, so that all of them share one build
# cache: compiling Kubernetes takes minutes. Sourced by the other scripts and usable in a shell: `. scripts/env.sh`.
export GOFLAGS="-trimpath -buildvcs=false -tags=no_btrfs,no_devmapper,no_aufs,no_zfs"
export CGO_ENABLED=0
