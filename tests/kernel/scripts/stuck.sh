# A write is stuck in the back end. The initiator escalates; when the disk goes on, nothing is lost.
iscsi-login "$TARGET" "$PORTAL" node.session.err_timeo.abort_timeout=1 \
  node.session.err_timeo.lu_reset_timeout=1 node.session.err_timeo.tgt_reset_timeout=1 \
  node.session.timeo.replacement_timeout=120
disk=$(by-lun 1)
echo 2 >"/sys/block/${disk#/dev/}/device/timeout"
head -c 65536 /dev/urandom >data
tell ready
hear stuck
dd if=data of="$disk" bs=65536 oflag=direct conv=notrunc &
write=$!
for _ in $(seq 200); do
  dmesg | grep -qiE 'abort|reset|recovery|detected conn error' && break
  sleep 0.2
done
tell escalated
wait $write
dd if="$disk" bs=65536 count=1 iflag=direct | cmp - data
iscsiadm -m session -P 1 | grep 'iSCSI Session State: LOGGED_IN'
iscsi-logout
