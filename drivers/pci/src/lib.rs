//! PCI enumeration, BARs, capabilities, MSI-X.
