//! Runs instances as plain QEMU processes.
