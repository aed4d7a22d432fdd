# SPDX-License-Identifier: Apache-2.0
# fish completion for shale

function __shale_verb # true when the words so far have these sub commands, in order
    set -l words
    for word in (commandline -opc)[2..-1]
        string match -q -- '-*' $word; or set -a words $word
    end
    test (count $argv) -le (count $words); or return 1
    for i in (seq (count $argv))
        contains -- $argv[$i] $words; or return 1
    end
end
function __shale_root
    set -l words (commandline -opc)
    if set -l at (contains -i -- --root $words)
        echo --root
        echo $words[(math $at + 1)]
    end
end
function __shale_list
    shale (__shale_root) $argv ls --quiet 2>/dev/null
end

complete -c shale -f
complete -c shale -l root -d 'Directory of the store' -xa '(__fish_complete_directories)'
complete -c shale -s s -l driver -l storage-driver -d 'Storage driver' -xa '(shale drivers --quiet 2>/dev/null)'
complete -c shale -l storage-opt -d 'Option of the driver' -x
complete -c shale -l config -d 'Configuration file' -rF
complete -c shale -l daemon-json -d "Docker's daemon.json" -rF
complete -c shale -l durability -d 'What survives a power loss' -xa 'full none'
complete -c shale -l jobs -d 'Layers unpacked at once' -x
complete -c shale -l max-entries -d 'Most entries of a layer' -x
complete -c shale -l max-layer-size -d 'Most bytes of a layer' -x
complete -c shale -l json -d 'One JSON document'
complete -c shale -s q -l quiet -d 'Only ids'
complete -c shale -s v -l verbose -d 'Say more'
complete -c shale -l no-color -d 'No colours'
complete -c shale -l dry-run -d 'Only say what would be done'

complete -c shale -n __fish_use_subcommand -a 'info drivers config version image layer container run unshare gc df check migrate lease containerd facts doctor orphans cache guard watch lab'
complete -c shale -n '__shale_verb image; and not __fish_seen_subcommand_from import ls inspect tag export rm' -a 'import ls inspect tag export rm'
complete -c shale -n '__shale_verb image import' -F
complete -c shale -n '__shale_verb image import' -l name -x
complete -c shale -n '__shale_verb image import' -l platform -x
complete -c shale -n '__shale_verb image import' -l ref -x
complete -c shale -n '__shale_verb image; and __fish_seen_subcommand_from inspect tag export rm' -a '(__shale_list image)'
complete -c shale -n '__shale_verb image export' -l format -xa 'oci oci-dir docker'
complete -c shale -n '__shale_verb layer; and not __fish_seen_subcommand_from ls inspect export' -a 'ls inspect export'
complete -c shale -n '__shale_verb layer; and __fish_seen_subcommand_from inspect export' -a '(__shale_list layer)'
complete -c shale -n '__shale_verb container; and not __fish_seen_subcommand_from create mount unmount ls inspect diff commit export rm' -a 'create mount unmount ls inspect diff commit export rm'
complete -c shale -n '__shale_verb container create' -a '(__shale_list image)'
complete -c shale -n '__shale_verb container create' -l name -x
complete -c shale -n '__shale_verb container create' -l size -x
complete -c shale -n '__shale_verb container create' -l inodes -x
complete -c shale -n '__shale_verb container; and __fish_seen_subcommand_from mount unmount inspect diff commit export rm' -a '(__shale_list container)'
complete -c shale -n '__shale_verb container commit' -l comment -x
complete -c shale -n '__shale_verb container commit' -l author -x
complete -c shale -n '__shale_verb container commit' -l cmd -x
complete -c shale -n '__shale_verb container commit' -l compression -xa 'gzip zstd none'
complete -c shale -n '__shale_verb container rm' -s f -l force -d 'Unmount first'
complete -c shale -n '__shale_verb image rm' -s f -l force -d 'Also with several names'
complete -c shale -n '__shale_verb run' -a '(__shale_list image)'
complete -c shale -n '__shale_verb run' -l container -xa '(__shale_list container)'
complete -c shale -n '__shale_verb run' -l name -x
complete -c shale -n '__shale_verb run' -l rm -d 'Remove afterwards'
complete -c shale -n '__shale_verb run' -l keep -d 'Keep the container'
complete -c shale -n '__shale_verb run' -l runtime -x
complete -c shale -n '__shale_verb check' -l level -xa 'quick full data'
complete -c shale -n '__shale_verb check' -l repair
complete -c shale -n '__shale_verb migrate' -l to -xa '(shale drivers --quiet 2>/dev/null)'
complete -c shale -n '__shale_verb migrate' -l to-root -xa '(__fish_complete_directories)'
complete -c shale -n '__shale_verb migrate' -l to-opt -x
complete -c shale -n '__shale_verb migrate' -l verify -xa 'digest data'
complete -c shale -n '__shale_verb migrate' -l force -d 'Also when the estimate does not fit'
complete -c shale -n '__shale_verb migrate' -l finish -d 'Switch to the copy'
complete -c shale -n '__shale_verb migrate' -l rollback -d 'Take the copy away'
complete -c shale -n '__shale_verb df' -l host -d 'On the whole host'
for verb in df facts doctor orphans cache
    complete -c shale -n "__shale_verb $verb" -l host-root -xa '(__fish_complete_directories)' -d 'Where the disk of a host is mounted'
    complete -c shale -n "__shale_verb $verb" -l store -x -d 'ENGINE=DIRECTORY: only this one'
end
for verb in facts doctor orphans
    complete -c shale -n "__shale_verb $verb" -l no-usage -d 'Count nothing'
end
complete -c shale -n '__shale_verb doctor' -l facts -rF -d 'A file of shale facts'
complete -c shale -n '__shale_verb doctor' -l format -xa 'text json html prometheus line'
complete -c shale -n '__shale_verb doctor' -l check -x -d 'Only this check'
complete -c shale -n '__shale_verb doctor' -l explain -x -d 'The page of a check'
complete -c shale -n '__shale_verb doctor' -l list -d 'List the checks'
complete -c shale -n '__shale_verb doctor' -l watch -x -d 'Again every so many seconds'
complete -c shale -n '__shale_verb cache; and not __fish_seen_subcommand_from top evict' -a 'top evict'
complete -c shale -n '__shale_verb cache top' -l by -xa 'layer image container'
complete -c shale -n '__shale_verb cache top' -s n -l most -x
complete -c shale -n '__shale_verb cache evict' -l layer -x
complete -c shale -n '__shale_verb cache evict' -l image -x
complete -c shale -n '__shale_verb cache evict' -l cgroup -x
complete -c shale -n '__shale_verb orphans; and not __fish_seen_subcommand_from ls reclaim trash undo purge' -a 'ls reclaim trash undo purge'
complete -c shale -n '__shale_verb orphans' -l assume-alone -d 'Nobody else uses the stores'
complete -c shale -n '__shale_verb orphans reclaim' -l min-age -x -d 'Seconds: younger ones stay'
complete -c shale -n '__shale_verb drivers' -l measure -d 'Time what containers do'
complete -c shale -n '__shale_verb config' -a show
complete -c shale -n '__shale_verb containerd' -a config
complete -c shale -n '__shale_verb lease; and not __fish_seen_subcommand_from create ls rm' -a 'create ls rm'
complete -c shale -n '__shale_verb lease rm' -a '(__shale_list lease)'
complete -c shale -n '__shale_verb watch' -F
complete -c shale -n '__shale_verb watch' -l once -d 'End after the first event'
complete -c shale -n '__shale_verb watch' -l debounce -x -d 'Milliseconds without another'
complete -c shale -n '__shale_verb watch' -l timeout -x -d 'End after so many seconds'
complete -c shale -n '__shale_verb watch' -l recursive -d 'All that is below'
complete -c shale -n '__shale_verb watch' -l pid -xa '(__fish_complete_pids)' -d 'As this process sees it'
complete -c shale -n '__shale_verb watch' -l container -xa '(__shale_list container)'
complete -c shale -n '__shale_verb watch' -l signal -xa 'HUP INT USR1 USR2 TERM' -d 'Send it with each event'
complete -c shale -n '__shale_verb watch' -l exec -d 'Run what is behind -- with each event'
complete -c shale -n '__shale_verb lab; and not __fish_seen_subcommand_from ls show run report' -a 'ls show run report'
complete -c shale -n '__shale_verb lab show' -a '(shale lab ls --quiet 2>/dev/null)'
complete -c shale -n '__shale_verb lab run' -a 'all (shale lab ls --quiet 2>/dev/null)'
complete -c shale -n '__shale_verb lab run' -l report -r -d 'Write the stories down: a page or JSON'
complete -c shale -n '__shale_verb lab run' -l dir -xa '(__fish_complete_directories)' -d 'Where the disks are kept'
complete -c shale -n '__shale_verb lab run' -l limit -x -d 'Seconds of one scenario'
complete -c shale -n '__shale_verb lab report' -s o -l output -r -d 'A page or JSON'
complete -c shale -n '__shale_verb guard; and not __fish_seen_subcommand_from events' -a events
complete -c shale -n '__shale_verb guard' -l once
complete -c shale -n '__shale_verb guard' -l interval -x
complete -c shale -n '__shale_verb guard events' -s n -l most -x
