//! What the image's main function is told about the machine.

use alloc::string::String;
use alloc::vec::Vec;

/// Who put the image into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// A hypervisor, directly (`qemu -kernel`).
    Pvh,
    /// GRUB or another multiboot2 loader.
    Multiboot2,
}

/// What a range of physical memory is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Ordinary memory.
    Usable,
    /// Holds ACPI tables.
    Acpi,
    /// Belongs to firmware or devices.
    Reserved,
}

/// A range of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// Address of the first byte.
    pub start: u64,
    /// Address behind the last byte.
    pub end: u64,
    /// Its use.
    pub kind: MemoryKind,
}

impl MemoryRange {
    /// Length in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end - self.start
    }
}

/// A file that the loader put into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// The words behind the file's name in the loader's configuration.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
}

/// What firmware and loader handed over, copied out of their memory.
#[derive(Clone, Debug)]
pub struct BootInfo {
    /// Who loaded the image.
    pub loader: Loader,
    /// The kernel command line; empty where there is none.
    pub command_line: String,
    /// The firmware's map of memory, as it was told.
    pub memory: Vec<MemoryRange>,
    /// Files beside the image.
    pub modules: Vec<Module>,
    /// The ACPI root pointer, revision 2 or padded with zeros.
    pub rsdp: Option<[u8; 36]>,
    /// Bytes of memory that became heap.
    pub heap_bytes: u64,
}

impl BootInfo {
    /// The value of the word `key=value` on the command line; the last one wins.
    #[must_use]
    pub fn word(&self, key: &str) -> Option<&str> {
        word(&self.command_line, key)
    }
}

/// The value of the last `key=value` among the words of `line`.
pub(crate) fn word<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn the_last_word_of_a_key_wins() {
        let line = "log.level=info  test.exit=1 log.level=debug log.levels=x";
        assert_eq!(word(line, "log.level"), Some("debug"));
        assert_eq!(word(line, "test.exit"), Some("1"));
        assert_eq!(word(line, "test"), None);
    }
}
