//! Disks of throw-away machines: overlays, copies and seeds, made without a process each.
