"""The clients that initiators of iSCSI have without a kernel: libiscsi's tools, and qemu's."""
