#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The Debian package: what is in it, that a second build has the same bytes, and its life in the smallest Debian 12, where it
# is installed, used, upgraded, removed and purged; then once more with systemd, first its programs, then booted.
# Time limit: 3600 s (three minutes where the release build is done; that takes most of the rest)
source "$(dirname "$0")/../lib.sh"
need dh dpkg-deb readelf busybox
[[ $SHALE != */asan-ubsan/* && $SHALE != */tsan/* ]] || skip "the package is of the release build, whatever is tested; ./dev test runs this"
took() { echo "-- $SECONDS s: $*"; }

"$REPO/dev" package "$WORK/first" >"$WORK/first.log" 2>&1 || { tail -n 40 "$WORK/first.log"; fail "./dev package"; }
version=$(sed -n 's/^project(shale VERSION \([0-9.]*\) .*/\1/p' "$REPO/CMakeLists.txt")
deb=$WORK/first/shale_${version}_$(dpkg --print-architecture).deb
[[ $(ls "$WORK/first") == "${deb##*/}" ]] || fail "${deb##*/} was expected, not $(ls "$WORK/first")"
took "built: $(stat -c %s "$deb") bytes"

# ------------------------------------------------------------------------------------------------------------- the file
(umask 077 && TZ=Asia/Tokyo "$REPO/dev" package "$WORK/second" >"$WORK/second.log" 2>&1)
cmp "$deb" "$WORK/second/${deb##*/}" || fail "two builds of the same commit differ"

content=$WORK/content control=$WORK/control
dpkg-deb --extract "$deb" "$content"
dpkg-deb --control "$deb" "$control"
for path in usr/bin/shale{,d} lib/systemd/system/shaled.{service,socket} etc/shale/shale.toml usr/share/man/man1/shale.1.gz \
  usr/share/man/man8/shaled.8.gz usr/share/bash-completion/completions/shale usr/share/zsh/vendor-completions/_shale \
  usr/share/fish/vendor_completions.d/shale.fish; do
  [[ -f $content/$path ]] || fail "/$path is not in the package"
done
for path in README.md CHANGELOG.md copyright changelog.gz $(cd "$REPO" && ls docs/*.md docs/*/*.md); do
  [[ -f $content/usr/share/doc/shale/$path ]] || fail "/usr/share/doc/shale/$path is not in the package"
done
dpkg-deb --contents "$deb" >"$WORK/contents"
! grep -vE '^(drwxr-xr-x|-rw-r--r--) root/root |^-rwxr-xr-x root/root .* \./usr/bin/shaled?$' "$WORK/contents" || fail "owners and modes: see above"
[[ $(awk '{ print $4, $5 }' "$WORK/contents" | sort -u | wc -l) == 1 ]] || fail "not everything has the time of the commit: $(cat "$WORK/contents")"
(cd "$content" && md5sum --quiet -c "$control/md5sums")
grep -F 'common-licenses/Apache-2.0' "$content/usr/share/doc/shale/copyright" >/dev/null

field() { dpkg-deb --field "$deb" "$1"; }
[[ $(field Package) == shale && $(field Version) == "$version" ]] || fail "it is $(field Package) $(field Version)"
# What the programs are linked with, and a program only when dpkg-shlibdeps has not seen it.
for library in 'libc6 (>= ' 'libstdc++6 (>= ' libgrpc++ libprotobuf libsqlite3-0 libdevmapper libbtrfsutil libisal libzstd; do
  [[ $(field Depends) == *"$library"* ]] || fail "$library is not among what it depends on: $(field Depends)"
done
[[ $(field Recommends) == *crun* && $(field Recommends) == *uidmap* ]] || fail "it recommends $(field Recommends)"
# Each package that the sources name for a program that they run.
grep -rh --include='*.cc' --exclude='*_test.cc' 'find_tool(' "$REPO/src" | sed -n 's/.*find_tool([^,]*, \([^)]*\)).*/\1/p' | grep -o '"[a-z0-9-]*"' | tr -d '"' | sort -u >"$WORK/tools"
(($(wc -l <"$WORK/tools") >= 5)) || fail "the sources name too few packages of tools: $(cat "$WORK/tools")"
while read -r tool; do
  [[ ", $(field Suggests)," == *", $tool,"* ]] || fail "$tool is not suggested: $(field Suggests)"
done <"$WORK/tools"
[[ $(cat "$control/conffiles") == /etc/shale/shale.toml ]] || fail "conffiles: $(cat "$control/conffiles")"
for script in postinst prerm postrm; do sh -n "$control/$script"; done

for program in shale shaled; do
  file=$content/usr/bin/$program
  ! readelf --sections --wide "$file" | grep -F .symtab || fail "$program is not stripped"
  readelf --file-header --program-headers --dynamic --wide "$file" >"$WORK/elf"
  for wanted in 'Type:.*DYN' GNU_RELRO BIND_NOW; do grep "$wanted" "$WORK/elf" >/dev/null || fail "$program has no $wanted"; done
  readelf --dyn-syms --wide "$file" >"$WORK/symbols"
  for wanted in __stack_chk_fail _chk@; do grep -F "$wanted" "$WORK/symbols" >/dev/null || fail "$program has no $wanted"; done
  ! grep -qF "$REPO" "$file" || fail "$program names the directory that it was built in"
done
program=$(sed -n 's/^ExecStart=//p' "$content/lib/systemd/system/shaled.service")
[[ $program == /* && -x $content$program ]] || fail "shaled.service starts $program"
for page in "$content"/usr/share/man/man?/*.gz; do
  [[ $(od -An -tx1 -N9 "$page") == " 1f 8b 08 00 00 00 00 00 02" ]] || fail "${page##*/} is not of gzip -9n"
  zgrep -F "\"shale $version\"" "$page" >/dev/null || fail "${page##*/} is not of version $version"
done

# The configuration as it is, and with all that it proposes.
config() { "$content/usr/bin/shale" --root "$WORK/none" --config "$1" containerd config; }
config "$content/etc/shale/shale.toml" | grep -F 'address = "/run/shale/shale.sock"' >/dev/null
! grep -v '^#\|^$' "$content/etc/shale/shale.toml" || fail "the configuration sets something"
sed 's/^#\([^ ]\)/\1/; s/^\(name\|socket\) = "\(.*\)shale/&-too/' "$content/etc/shale/shale.toml" >"$WORK/all.toml"
(($(grep -c ' = ' "$WORK/all.toml") > 12)) || fail "the configuration proposes little: $(cat "$WORK/all.toml")"
config "$WORK/all.toml" | grep -F 'address = "/run/shale/shale-too.sock"' >/dev/null
# shellcheck disable=SC2016
bash -ec 'source "$1"; complete -p shale; COMP_WORDS=(shale ima) COMP_CWORD=1; _shale; [[ ${COMPREPLY[*]} == image ]]' bash \
  "$content/usr/share/bash-completion/completions/shale" >/dev/null

# Elsewhere than in /usr the unit starts what is there.
cmake --install "$REPO/build/release" --prefix "$WORK/prefix" >/dev/null
[[ $(sed -n 's/^ExecStart=//p' "$WORK/prefix/lib/systemd/system/shaled.service") == "$WORK/prefix/bin/shaled" ]] ||
  fail "a unit below another prefix starts $(grep ExecStart= "$WORK/prefix/lib/systemd/system/shaled.service")"
[[ $("$WORK/prefix/bin/shale" --version) == "shale $version" && -f $WORK/prefix/share/man/man8/shaled.8 ]] || fail "cmake --install"
took "looked at"

# ------------------------------------------------------------------------------------------------------------- its life
(($(id -u) == 0)) || { skip_part "installation in a Debian: needs root"; exit 0; }
tree=$WORK/tree
source "$REPO/tests/integration/debian_archive.sh"
small_debian
cp -L /etc/resolv.conf "$tree/etc/resolv.conf"
took "debootstrap"
"$REPO/tools/busybox_image.sh" "$tree/srv/image.tar" tour:v1
cp "$deb" "$tree/srv/shale.deb"
# The next version, which differs by its number only.
dpkg-deb --raw-extract "$deb" "$WORK/next"
sed -i "s/^Version: .*/&+next/" "$WORK/next/DEBIAN/control"
dpkg-deb --root-owner-group --build "$WORK/next" "$tree/srv/next.deb" >/dev/null

apt() { # ARGUMENTS: apt-get in the tree, which must not complain about the package
  from_network "$WORK/apt.log" in_tree "DEBIAN_FRONTEND=noninteractive apt-get -q -y $*"
  ! grep -iE '(shale|deb-systemd).*(warning|error|fail|not found|cannot)|(warning|error).*shale' "$WORK/apt.log" || fail "apt-get $*: see above"
}
state() { in_tree "dpkg-query -W -f '\${db:Status-Status} \${Version}' shale 2>/dev/null || echo none"; }
# Files with the package's name, but for its store and what is in /srv.
left() { find "$tree" -path "$tree/srv" -prune -o -path "$tree/var/lib/shale" -prune -o -name '*shale*' -printf '/%P\n'; }

apt update
apt install --simulate /srv/shale.deb
for wanted in crun uidmap; do grep "^Inst $wanted " "$WORK/apt.log" >/dev/null || fail "$wanted would not be installed"; done
apt install --no-install-recommends /srv/shale.deb
[[ $(state) == "installed $version" ]] || fail "it is $(state)"
took "installed"
[[ ! -e $tree/run/systemd/system && ! -e $tree/usr/bin/systemctl ]] || fail "there should be no systemd"
in_tree "[ \"\$(shale --version)\" = 'shale $version' ]; [ \"\$(shaled --version)\" = 'shaled $version' ]; shaled --help | grep -F -e --listen >/dev/null"
in_tree 'bash -ec ". /usr/share/bash-completion/completions/shale; complete -p shale" >/dev/null'
in_tree 'shale --driver vfs image import /srv/image.tar --name tour:v1; shale image ls; shale config show; shale check'
in_tree 'shale image ls' | grep '^tour .*v1' >/dev/null || fail "the image is not listed"
# shellcheck disable=SC2016
in_tree 'shaled --root /srv/store --driver vfs --listen /srv/shale.sock & daemon=$!
  for _ in $(seq 300); do [ -S /srv/shale.sock ] && [ -e /srv/store/shale.db ] && break; sleep 0.1; done
  sleep 1; kill $daemon; wait $daemon'
[[ -e $tree/srv/store/shale.db ]] || fail "shaled made no store"

printf 'durability = "none"\n' >>"$tree/etc/shale/shale.toml"
apt install --no-install-recommends --reinstall /srv/shale.deb
[[ $(state) == "installed $version" ]] || fail "after it was installed over itself it is $(state)"
apt install --no-install-recommends /srv/next.deb
[[ $(state) == "installed $version+next" ]] || fail "after the upgrade it is $(state)"
in_tree 'shale config show' | grep -E 'durability.*none' >/dev/null || fail "what the administrator configured has gone: $(in_tree 'shale config show')"
took "upgraded"
apt remove shale
[[ $(state) == config-files* && ! -e $tree/usr/bin/shale && -e $tree/etc/shale/shale.toml ]] || fail "after removal: $(state), $(left)"
apt purge shale
[[ $(state) == none* && -z $(left) ]] || fail "after purge: $(state), $(left)"
[[ -e $tree/var/lib/shale/shale.db ]] || fail "the store was removed"
took "purged"

# ---------------------------------------------------------------------------------------------------------- with systemd
apt install --no-install-recommends systemd-sysv
apt install --no-install-recommends /srv/shale.deb
in_tree 'shale image ls' | grep '^tour .*v1' >/dev/null || fail "the store's image is not listed any more"
enabled() { in_tree "systemctl is-enabled shaled.service shaled.socket || true" | tr '\n' ' '; }
[[ $(enabled) == "enabled enabled " ]] || fail "the units are $(enabled)"
in_tree 'systemd-analyze verify --man=no shaled.service shaled.socket' >"$WORK/verify" 2>&1 || { cat "$WORK/verify"; fail "systemd-analyze verify"; }
! grep -F shale "$WORK/verify" || fail "systemd-analyze verify: see above"
in_tree 'systemctl disable shaled.service' 2>/dev/null
apt install --no-install-recommends /srv/next.deb
[[ $(enabled) == disabled* ]] || fail "the upgrade enabled what was disabled: $(enabled)"
apt purge shale
[[ -z $(left) ]] || fail "after purge: $(left)"
took "with systemd's programs"

# -------------------------------------------------------------------------------------------- where systemd is process 1
cat >"$tree/srv/live.sh" <<'SH'
set -eux
active() { [ "$(systemctl is-active shaled.service shaled.socket | sort -u)" = "$1" ]; }
dpkg -i /srv/shale.deb
active active
shale image ls | grep '^tour'
pid=$(systemctl show -P MainPID shaled.service)
socket=$(stat -c '%i %Z' /run/shale/shale.sock)
systemctl reload shaled.service
for _ in $(seq 50); do journalctl -u shaled.service | grep -w reloaded && break; sleep 0.1; done
journalctl -u shaled.service | grep -w reloaded
dpkg -i /srv/next.deb
active active
[ "$(systemctl show -P MainPID shaled.service)" != "$pid" ]
[ "$(stat -c '%i %Z' /run/shale/shale.sock)" = "$socket" ]
dpkg -r shale
active inactive
if kill -0 "$pid"; then exit 1; fi
dpkg -P shale
if systemctl list-unit-files 'shaled*' | grep shaled; then exit 1; fi
[ -e /var/lib/shale/shale.db ]
echo ok >/srv/live.done
SH
cat >"$tree/lib/systemd/system/live.service" <<'UNIT'
[Unit]
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
ExecStart=/bin/sh /srv/live.sh
StandardOutput=file:/srv/live.log
StandardError=inherit
UNIT
boot() {
  local machine=shale-test-$$ options=(--register=no) status=0
  [[ -d /run/systemd/system ]] || options+=(--keep-unit)
  timeout --kill-after=20 180 systemd-nspawn "${options[@]}" --quiet --machine="$machine" -D "$tree" --boot systemd.unit=live.service \
    </dev/null >"$WORK/boot.log" 2>&1 || status=$?
  rmdir "/run/systemd/nspawn/propagate/$machine" 2>/dev/null || true
  return "$status"
}
if ! command -v systemd-nspawn >/dev/null; then
  skip_part "under a running systemd: systemd-nspawn is not installed"
elif ! boot && [[ ! -e $tree/srv/live.log ]]; then
  cat "$WORK/boot.log"
  skip_part "under a running systemd: it cannot be booted here: $(tail -n 1 "$WORK/boot.log")"
else
  [[ -e $tree/srv/live.done ]] || { cat "$tree/srv/live.log"; fail "under a running systemd"; }
  took "under a running systemd"
fi
! grep -F " $WORK/" /proc/self/mountinfo || fail "mounts are left"
