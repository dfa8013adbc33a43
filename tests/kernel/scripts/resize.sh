# A volume grows while it is in use: the kernel is told, and sees it after a rescan.
iscsi-login "$TARGET" "$PORTAL"
disk=$(by-lun 1)
name=${disk#/dev/}
[ "$(blockdev --getsize64 "$disk")" = "$SIZE" ]
tell ready
hear resized
dmesg --clear
dd if="$disk" of=/dev/null bs=4096 count=1 iflag=direct
dmesg | grep -i 'capacity data has changed'
echo 1 >"/sys/block/$name/device/rescan"
[ "$(blockdev --getsize64 "$disk")" = "$NEW_SIZE" ]
dd if=/dev/zero of="$disk" bs=4096 seek=$((NEW_SIZE / 4096 - 1)) count=1 oflag=direct
iscsi-logout
