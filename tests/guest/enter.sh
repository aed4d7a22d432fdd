# SPDX-License-Identifier: Apache-2.0
# Sourced in the guest before the command: what tests need to know of the place they run in.
# shellcheck shell=bash

# No udevd runs: libdevmapper and lvm make the nodes in /dev/mapper themselves and wait for nobody.
export DM_DISABLE_UDEV=1
export LVM_SYSTEM_DIR=/run/lvm-config
mkdir -p "$LVM_SYSTEM_DIR"
cat >"$LVM_SYSTEM_DIR/lvm.conf" <<'CONF'
devices { dir="/dev" scan=["/dev"] use_devicesfile=0 external_device_info_source="none" obtain_device_list_from_udev=0 }
activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0 thin_pool_autoextend_threshold=100 }
global { use_lvmpolld=0 event_activation=0 }
backup { backup=0 archive=0 }
CONF

# A real file system (ext4 with project quota): the root is an overlay over 9p.
if [[ -d /run/scratch ]]; then
  export SHALE_TEST_DIR=/run/scratch TMPDIR=/run/scratch
fi
export SHALE_GUEST=1
