# Login with mutual CHAP and both digests; a file system is made, written, checked, found again.
log_in() {
  iscsi-login "$TARGET" "$PORTAL" node.session.auth.authmethod=CHAP \
    node.session.auth.username="$CHAP_USER" node.session.auth.password="$CHAP_SECRET" \
    node.session.auth.chap_algs="$CHAP_ALGORITHMS" \
    node.session.auth.username_in="$MUTUAL_USER" node.session.auth.password_in="$MUTUAL_SECRET" \
    'node.conn[0].iscsi.HeaderDigest=CRC32C' 'node.conn[0].iscsi.DataDigest=CRC32C'
}
log_in
iscsiadm -m session -P 2 | grep 'HeaderDigest: CRC32C'
iscsiadm -m session -P 2 | grep 'DataDigest: CRC32C'
disk=$(by-lun 1)
[ ! -e /sys/class/scsi_disk/*:0 ] # a target whose only LUN is 1
case $FS in
  ext4) mkfs.ext4 -q -F "$disk"; check="e2fsck -fn" ;;
  xfs) mkfs.xfs -q -f "$disk"; check="xfs_repair -n" ;;
esac
mount "$disk" /mnt
head -c 5000000 /dev/urandom >/mnt/file
sha256sum </mnt/file >before
umount /mnt
$check "$disk"
iscsi-logout
log_in
disk=$(by-lun 1)
$check "$disk"
mount "$disk" /mnt
sha256sum -c before </mnt/file
umount /mnt
iscsi-logout
