//! virtio network, block and entropy devices.
