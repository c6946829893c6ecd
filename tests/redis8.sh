#!/bin/sh
# A Redis 8 (vector sets) in a folder of its own; nothing is installed system-wide.
# usage: redis8.sh DIR    then: DIR/redis-server --port 6379
#
# Where redis-server on the PATH is an 8, it is that one. Otherwise Debian's packages of its release 13, which has one,
# are unpacked into DIR with the libraries that they need: they run beside an older release.
set -eu

release=trixie
packages="redis-server redis-tools libc6 libstdc++6 libgcc-s1 libatomic1 libjemalloc2 liblzf1 libssl3t64 libsystemd0
          libcap2 zlib1g libzstd1"

mkdir -p "$1"
dir=$(cd "$1" && pwd)

present=$(command -v redis-server || true)
if [ -n "$present" ] && "$present" --version | grep -q 'v=8\.'; then
    ln -sf "$present" "$dir/redis-server"
    exit
fi

work=$(mktemp -d "$dir/unpacking.XXXXXX")  # renamed when it is whole: two may run at once
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/sources" "$work/packages" "$work/root"

# the first stanza of the machine's own sources with the other release, so that no host is named here
for sources in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.sources; do
    [ -f "$sources" ] && break
done
[ -f "$sources" ] || { echo "$0: needs a Redis 8 on the PATH, or Debian with its sources in deb822 format" >&2; exit 1; }
awk -v RS= -v release="$release" 'NR == 1 { sub(/Suites:[^\n]*/, "Suites: " release); print }' "$sources" \
    > "$work/sources/$release.sources"

apt() {
    apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources" \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@"
}
apt update
# shellcheck disable=SC2086  # one word each
(cd "$work/packages" && apt download $packages)
for package in "$work/packages"/*.deb; do
    dpkg-deb -x "$package" "$work/root"
done

mv -T "$work/root" "$dir/root" 2>/dev/null || [ -d "$dir/root" ]  # or the other has done it
cat > "$work/redis-server" << 'END'
#!/bin/sh
root=$(dirname "$0")/root
loader=$(echo "$root"/usr/lib/*/ld-linux-*.so.*)
exec "$loader" --library-path "$(dirname "$loader")" --argv0 redis-server "$root/usr/bin/redis-server" "$@"
END
chmod +x "$work/redis-server"
mv "$work/redis-server" "$dir/redis-server"
