#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh [OPTION...] COMMAND ARGS...: runs a command as root in a virtual machine on Debian's own kernel.
#
#   -m MEM       memory (default 2G)                 -c CPUS   processors (default 1)
#   -l MODULES   kernel modules, in place of the usual ones; NAME:PARAMETER=VALUE gives a parameter
#   -z           with ZFS, when prepare_zfs.sh has made it; else without
#   -d FILE      a disk: /dev/vda, /dev/vdb ... in the order given; repeatable
#   -s SIZE      size of the scratch disk at /run/scratch, where TMPDIR and SHALE_TEST_DIR point; 0: none (default 8G, sparse)
#   -k DIR       a folder below /tmp, /run or /dev/shm that the command needs (read only); repeatable
#   -w DIR       a folder that the guest shall write to; repeatable
#   -e NAME      an environment variable to hand on; repeatable
#   -t SECONDS   limit (default 600)
#
# The guest sees this machine's / read only, below a tmpfs overlay; /tmp, /run and /dev/shm are its own. It has no
# network. Output (both streams) goes to stdout as it comes, the exit status is the command's; 125: the guest never
# finished, and its console is shown on stderr. A boot that hangs before the command begins is tried once more, without KVM.
# Needs no root and no KVM (which is used when there is one): qemu-system-x86, gcc, libc6-dev, python3, e2fsprogs, and
# a prepared kernel (prepare.sh).
set -euo pipefail
# shellcheck source=tests/guest/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

boot_modules=(virtio_pci 9pnet_virtio 9p overlay virtio_blk ext4 quota_v2)
usual_modules=(loop xfs btrfs erofs dm_thin_pool dm_snapshot dm_flakey)
zfs_modules=(zfs:zfs_arc_max=134217728)
boot_limit=120 # seconds until the command begins; 3 to 5 are usual, a loaded machine needs more
kvm_limit=30   # the same with KVM

memory=2G cpus=1 modules=("${usual_modules[@]}") zfs=0 disks=() scratch=8G keep=() write=() environment=() limit=600

parse() {
  local option
  while getopts m:c:l:zd:s:k:w:e:t: option; do
    case $option in
      m) memory=$OPTARG ;;
      c) cpus=$OPTARG ;;
      l) read -ra modules <<<"$OPTARG" ;;
      z) zfs=1 ;;
      d) disks+=("$OPTARG") ;;
      s) scratch=$OPTARG ;;
      k) keep+=("$(readlink -f "$OPTARG")") ;;
      w) write+=("$(readlink -f "$OPTARG")") ;;
      e) environment+=("$OPTARG") ;;
      t) limit=$OPTARG ;;
      *) sed -n '3,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
  done
  command=("${@:OPTIND}")
  ((${#command[@]})) || die "no command given"
}

# The initramfs for the modules wanted; made once for each list.
find_initrd() { # KERNEL
  local folders=$guest_cache/kernels/$1/modules wanted=("${boot_modules[@]}" "${modules[@]}") init key
  if ((zfs)) && [[ -d $guest_cache/zfs/$1 ]]; then
    folders+=,$guest_cache/zfs/$1/modules
    wanted+=("${zfs_modules[@]}")
  else
    zfs=0
  fi
  key=$(cat "$guest_dir"/{init.c,initrd.py} - <<<"$folders ${wanted[*]}" | sha256sum)
  initrd=$guest_cache/initrd/${key:0:16}.cpio
  [[ ! -e $initrd ]] || return 0
  mkdir -p "$guest_cache/initrd"
  init=$(mktemp "$guest_cache/initrd/.init.XXXXXX")
  gcc -O2 -Wall -Wextra -static -o "$init" "$guest_dir/init.c"
  python3 "$guest_dir/initrd.py" "$initrd" "$init" "$folders" "${wanted[@]}"
  rm -f "$init"
}

# What the guest's own /tmp, /run and /dev/shm would hide of what is needed.
hidden() { # DIR...
  local dir
  for dir; do
    case $dir/ in /tmp/* | /run/* | /dev/shm/*) echo "$dir" ;; esac
  done
}

# Fills the shared folder: what init (see there) and the command need to know.
write_share() { # KERNEL
  local i name letters=abcdefghijklmnopqrstuvwxyz
  {
    ((!zfs)) || echo "layer zfs"
    for name in $(hidden "$guest_dir" "$PWD" | sort -u) "${keep[@]}"; do echo "keep $name"; done
    for i in "${!write[@]}"; do echo "write write$i ${write[i]}"; done
    [[ $scratch == 0 ]] || echo "scratch vd${letters:${#disks[@]}:1}"
  } >"$work/share/setup"
  {
    echo '#!/bin/bash'
    printf '. %q\n' "$guest_dir/enter.sh"
    for name in "${environment[@]}"; do
      [[ -z ${!name+set} ]] || printf 'export %s=%q\n' "$name" "${!name}"
    done
    printf 'cd %q && exec' "$PWD"
    printf ' %q' "${command[@]}"
    echo
  } >"$work/share/command"
  chmod 0755 "$work/share/command"
  : >"$work/share/output"
}

make_scratch() {
  [[ $scratch != 0 ]] || return 0
  truncate -s "$scratch" "$work/scratch"
  /sbin/mkfs.ext4 -q -F -O project,quota -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 "$work/scratch"
}

qemu_arguments() { # KERNEL ACCELERATOR
  local i all_disks=("${disks[@]}") exports=("host:/:,readonly=on,multidevs=remap" "share:$work/share:") accel=tcg,thread=multi
  [[ $2 != kvm ]] || accel=kvm
  [[ $scratch == 0 ]] || all_disks+=("$work/scratch")
  ((!zfs)) || exports+=("zfs:$guest_cache/zfs/$1/root:,readonly=on")
  for i in "${!write[@]}"; do exports+=("write$i:${write[i]}:"); done
  qemu=(qemu-system-x86_64 -M pc -accel "$accel" -cpu max -smp "$cpus" -m "$memory"
    -nodefaults -no-user-config -nographic -no-reboot
    -kernel "$guest_cache/kernels/$1/vmlinux" -initrd "$initrd"
    -append "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check"
    -chardev "file,id=console,path=$work/console" -serial chardev:console)
  local name path options
  for i in "${exports[@]}"; do
    IFS=: read -r name path options <<<"$i"
    qemu+=(-fsdev "local,id=$name,path=$path,security_model=none$options" -device "virtio-9p-pci,fsdev=$name,mount_tag=$name")
  done
  for i in "${!all_disks[@]}"; do
    qemu+=(-drive "if=none,id=disk$i,format=raw,cache=unsafe,discard=unmap,file=${all_disks[i]}" -device "virtio-blk-pci,drive=disk$i,serial=disk$i")
  done
}

# Boots once and shows the output as it comes. 0: finished; 1: hung before the command began; 2: hung or died later.
boot() { # SECONDS-UNTIL-IT-BEGINS
  local pid tail start=$SECONDS
  "${qemu[@]}" </dev/null >"$work/qemu" 2>&1 9>&- &
  pid=$!
  qemu_pid=$pid
  tail -s 0.2 -f --pid="$pid" "$work/share/output" &
  tail=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if [[ ! -e $work/share/began ]] && ((SECONDS - start >= $1)) || ((SECONDS - start >= limit)); then
      kill -9 "$pid" 2>/dev/null || true
    fi
  done
  wait "$pid" || true
  qemu_pid=
  wait "$tail" || true
  [[ ! -e $work/share/status ]] || return 0
  [[ -e $work/share/began ]] && return 2
  return 1
}

clean_up() {
  [[ -z ${qemu_pid:-} ]] || kill -9 "$qemu_pid" 2>/dev/null || true
  rm -rf "$work"
}

main() {
  local kernel accelerator=tcg kvm_failed=0 attempt outcome
  parse "$@"
  command -v qemu-system-x86_64 >/dev/null || die "needs qemu-system-x86_64 (package qemu-system-x86)"
  kernel=$(cached_kernel)
  [[ -n $kernel ]] || die "no kernel is prepared in $guest_cache: run tests/guest/prepare.sh"
  find_initrd "$kernel"
  work=$(mktemp -d "${TMPDIR:-/var/tmp}/shale-guest.XXXXXX")
  trap clean_up EXIT
  trap 'exit 130' INT TERM
  # A /dev/kvm within a virtual machine may be one that boots nothing; that is found out once and remembered.
  [[ ! -w /dev/kvm || -e $guest_cache/kvm-boots-nothing ]] || accelerator=kvm
  for attempt in 1 2; do
    rm -rf "${work:?}"/*
    mkdir "$work/share"
    write_share "$kernel"
    make_scratch
    qemu_arguments "$kernel" "$accelerator"
    outcome=0
    boot "$([[ $accelerator == kvm ]] && echo "$kvm_limit" || echo "$boot_limit")" || outcome=$?
    ((outcome == 1 && attempt == 1)) || break
    say "the guest ($accelerator) died, or hung, before the command began; once more, without KVM"
    [[ $accelerator == tcg ]] || kvm_failed=1
    accelerator=tcg
  done
  ((outcome != 0 || !kvm_failed)) || echo "delete this file to try again" >"$guest_cache/kvm-boots-nothing"
  if ((outcome == 0)); then
    grep -ao 'init: .*' "$work/console" >&2 || true # what it complained of
    exit "$(<"$work/share/status")"
  fi
  say "the guest did not finish (limit $limit s); its console:"
  cat "$work/qemu" "$work/console" >&2 2>/dev/null || true
  exit 125
}

main "$@"
