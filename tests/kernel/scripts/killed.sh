# The gateway dies and comes back while fio writes and verifies: no error, nothing lost.
iscsi-login "$TARGET" "$PORTAL" 'node.conn[0].timeo.noop_out_interval=1' \
  'node.conn[0].timeo.noop_out_timeout=2' node.session.timeo.replacement_timeout=120
disk=$(by-lun 1)
fio --name=verify --filename="$disk" --rw=randwrite --bs=16k --size=24m --iodepth=8 \
  --ioengine=libaio --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --rate=2m \
  --output=fio.log &
fio=$!
sleep 3
tell loaded
hear restarted
wait $fio || { cat fio.log; exit 1; }
iscsiadm -m session -P 1 | grep 'iSCSI Session State: LOGGED_IN'
cat "/sys/block/${disk#/dev/}/device/state" | grep running
iscsi-logout
