# SPDX-License-Identifier: Apache-2.0
# bash completion for shale
_shale() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} word group="" verb="" i
  local globals="--root --driver --storage-driver --storage-opt --config --daemon-json --durability --jobs --max-entries --max-layer-size --json --quiet --verbose --no-color --dry-run --help --version"
  local root=() words="" options=""
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    case $word in
      --root) root=(--root "${COMP_WORDS[i + 1]:-}"); ((i++)) ;;
      -s | --driver | --storage-driver | --storage-opt | --config | --daemon-json | --durability | --jobs | --max-entries | --max-layer-size) ((i++)) ;;
      -*) ;;
      *) if [[ -z $group ]]; then group=$word; elif [[ -z $verb ]]; then verb=$word; fi ;;
    esac
  done
  _shale_ask() { shale "${root[@]}" "$@" 2>/dev/null; }
  case $prev in
    --root | --host-root) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
    --config | --daemon-json | --facts) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    -s | --driver | --storage-driver | --to) words=$(shale drivers --quiet 2>/dev/null) ;;
    --to-root) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
    --verify) words="digest data" ;;
    --durability) words="full none" ;;
    --level) words="quick full data" ;;
    --compression) words="gzip zstd none" ;;
    --format) if [[ $group == doctor ]]; then words="text json html prometheus line"; else words="oci oci-dir docker"; fi ;;
    --explain | --check) words=$(shale doctor --list --json 2>/dev/null | sed -n 's/.*"id": "\(.*\)".*/\1/p') ;;
    --store) words="docker= containerd= podman= shale="; compopt -o nospace ;;
    --signal) mapfile -t COMPREPLY < <(compgen -A signal -- "$cur"); return ;;
    --container) words=$(_shale_ask container ls --quiet) ;;
  esac
  if [[ -n $words ]]; then mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur"); return; fi
  case $group in
    "") words="info drivers config version image layer container run unshare gc df check migrate lease containerd facts doctor orphans cache guard watch lab" ;;
    image) case $verb in
      "") words="import ls inspect tag export rm" ;;
      import) options="--name --platform --ref"; [[ $cur == -* ]] || { mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return; } ;;
      export) options="--format"; words=$(_shale_ask image ls --quiet) ;;
      rm) options="--force"; words=$(_shale_ask image ls --quiet) ;;
      inspect | tag) words=$(_shale_ask image ls --quiet) ;;
      esac ;;
    layer) case $verb in
      "") words="ls inspect export" ;;
      inspect | export) words=$(_shale_ask layer ls --quiet) ;;
      esac ;;
    container) case $verb in
      "") words="create mount unmount ls inspect diff commit export rm" ;;
      create) options="--name --size --inodes"; words=$(_shale_ask image ls --quiet) ;;
      commit) options="--comment --author --cmd --compression"; words=$(_shale_ask container ls --quiet) ;;
      rm) options="--force"; words=$(_shale_ask container ls --quiet) ;;
      mount | unmount | umount | inspect | diff | export) words=$(_shale_ask container ls --quiet) ;;
      esac ;;
    run) options="--container --name --rm --keep --runtime"; words=$(_shale_ask image ls --quiet) ;;
    check) options="--level --repair" ;;
    migrate) options="--to --to-root --to-opt --verify --force --finish --rollback" ;;
    drivers) options="--measure" ;;
    df) options="--host --host-root --store" ;;
    facts) options="--host-root --store --no-usage" ;;
    doctor) options="--host-root --store --no-usage --facts --format --check --explain --list --watch" ;;
    cache) case $verb in
      "") words="top evict" ;;
      top) options="--host-root --store --by --most" ;;
      evict) options="--host-root --store --layer --image --cgroup" ;;
      esac ;;
    watch) options="--once --debounce --timeout --recursive --pid --container --signal --exec"
      [[ $cur == -* ]] || { mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return; } ;;
    lab) case $verb in
      "") words="ls show run report" ;;
      show) words=$(shale lab ls --quiet 2>/dev/null) ;;
      run) options="--report --dir --limit"; words="all $(shale lab ls --quiet 2>/dev/null)" ;;
      report) options="--output"; [[ $cur == -* ]] || { mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return; } ;;
      esac ;;
    guard) case $verb in
      "") words="events"; options="--once --interval" ;;
      events) options="--most" ;;
      esac ;;
    orphans) options="--host-root --store --no-usage --assume-alone"
      case $verb in
        "") words="ls reclaim trash undo purge" ;;
        reclaim) options+=" --min-age"; words=$(shale orphans ls --no-usage --quiet 2>/dev/null) ;;
      esac ;;
    config) [[ -n $verb ]] || words="show" ;;
    containerd) [[ -n $verb ]] || words="config" ;;
    lease) case $verb in
      "") words="create ls rm" ;;
      create) options="--expires --ref" ;;
      rm) words=$(_shale_ask lease ls --quiet) ;;
      esac ;;
  esac
  [[ $cur == -* ]] && words="$options $globals"
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _shale shale
