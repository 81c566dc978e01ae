#!/bin/sh
# Installs what the test cluster needs of Debian, as root; otherwise says what is missing.
#
# Go is the user's: 1.25 or newer.

set -eu

say() { printf '%s\n' "setup-cluster: $*"; }
die() { printf '%s\n' "setup-cluster: $*" >&2; exit 1; }
have() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1; }

needed() { # packages that are missing
    have containerd || printf '%s ' containerd
    have runc || printf '%s ' runc
    [ -x /usr/lib/cni/bridge ] || printf '%s ' containernetworking-plugins
    have nft || printf '%s ' nftables
    have iptables || printf '%s ' iptables # for host ports
    have buildah || printf '%s ' buildah
    have mmdebstrap || printf '%s ' mmdebstrap
    have ip || printf '%s ' iproute2
    have sysctl || printf '%s ' procps
    have gcc || printf '%s ' gcc
    [ -e /usr/lib/x86_64-linux-gnu/libc.a ] || [ -e /usr/lib/aarch64-linux-gnu/libc.a ] ||
        printf '%s ' libc6-dev
    have git || printf '%s ' git
}

have go || die "Go 1.25 or newer is missing: https://go.dev/dl"
missing=$(needed)
[ -n "$missing" ] || exit 0
install="apt-get install --no-install-recommends $missing"
[ "$(id -u)" = 0 ] && have apt-get || die "missing: $missing; as root: $install"
say "installing $missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || say "apt-get update failed; trying with the lists that are there"
# shellcheck disable=SC2086  # a list of packages
apt-get install -qq -y --no-install-recommends $missing >/dev/null || die "failed: $install"
