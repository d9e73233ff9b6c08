//! Runs instances as libvirt domains, here or on another host.
