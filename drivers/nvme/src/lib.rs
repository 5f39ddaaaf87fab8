//! NVMe controllers and namespaces as drives.
