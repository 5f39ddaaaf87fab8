//! From the first instruction of Rust to the image's main function.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use hal::heap::Heap;
use hal::{acpi, clock, cpu, crash, heap, irq, power, serial};
use log::info;
use spin::Mutex;

use crate::handover::{Handover, Physical, Span};
use crate::info::{BootInfo, Module};
use crate::memory::{PAGE, Spans, carve};
use crate::paging::{Access, PageTables, TableMemory};
use crate::{image, multiboot2, pvh, traps};

#[global_allocator]
static HEAP: Heap = Heap;

unsafe extern "Rust" {
    /// The image's main function; `entry!` writes it.
    safe fn appliance_main(info: &'static BootInfo) -> !;
}

/// Memory below is left alone: firmware data, and later the first code of other processors.
const LOW_MEMORY_END: u64 = 1 << 20;
/// What entry.s maps: page tables must be found below.
const EARLY_MAP_END: u64 = 1 << 32;
/// The crash record goes to the first page from here on: above what loaders and firmware use while they start.
const CRASH_RECORD_START: u64 = 24 << 20;

static TABLES: Mutex<Option<PageTables<Frames>>> = Mutex::new(None);

/// Entered from entry.s on the main stack, the first 4 GiB mapped.
#[unsafe(no_mangle)]
extern "C" fn boot_start(magic: u32, info: u32) -> ! {
    clock::mark_start();
    serial::init();
    traps::install();
    hal::log::init();
    let told = if magic == multiboot2::MAGIC {
        multiboot2::read(&EarlyMap, info.into())
    } else {
        pvh::read(&EarlyMap, info.into())
    };
    let mut told =
        told.unwrap_or_else(|| panic!("the loader left no map of memory (eax {magic:#x})"));
    info!("started by {:?}", told.loader);

    let taken = taken(&told);
    let every = Span {
        start: PAGE,
        end: u64::MAX,
    };
    let ram = carve(&told.ranges, &[image::whole()], every);
    let mut free = carve(
        &told.ranges,
        &taken,
        Span {
            start: LOW_MEMORY_END,
            end: u64::MAX,
        },
    );
    lift_from_page_zero(&mut told, &mut free);
    take_crash_record(&mut free);
    map_memory(&ram, &mut free);
    for span in &free {
        // SAFETY: (1) the firmware calls it usable; (2) image, hand-over and tables were carved out; (3) it is mapped.
        unsafe { heap::add(span.start as *mut u8, span.len() as usize) };
    }
    let info = copy(&told);
    if let Some(level) = info.word("log.level").and_then(|level| level.parse().ok()) {
        hal::log::set_level(level);
    }
    power::set_under_test(info.word("test.exit") == Some("1"));
    hal::set_mapper(map_device);
    acpi::init(info.rsdp.as_ref(), copy_physical);
    clock::init();
    irq::init();
    power::init();
    appliance_main(Box::leak(Box::new(info)))
}

/// Memory that holds something until the hand-over is copied, or for ever.
fn taken(told: &Handover) -> arrayvec::ArrayVec<Span, 32> {
    let mut taken = arrayvec::ArrayVec::new();
    taken.extend([image::whole(), told.line, told.block]);
    for (module, line) in &told.modules {
        taken.extend([*module, *line]);
    }
    taken
}

/// The span with most memory that entry.s mapped, so that small ones between holes are not used up.
fn largest(free: &mut Spans) -> &mut Span {
    free.iter_mut()
        .max_by_key(|span| span.end.min(EARLY_MAP_END).saturating_sub(span.start))
        .filter(|span| span.start < EARLY_MAP_END)
        .expect("no usable memory below 4 GiB")
}

/// Moves modules out of page zero, which is about to vanish: GRUB on UEFI puts small ones there.
fn lift_from_page_zero(told: &mut Handover, free: &mut Spans) {
    for (module, _) in told
        .modules
        .iter_mut()
        .filter(|(module, _)| module.start < PAGE)
    {
        let len = module.len();
        let supply = largest(free);
        let target = supply.start;
        supply.start += len.next_multiple_of(PAGE);
        assert!(
            supply.start <= supply.end,
            "no memory for a module of {len} bytes"
        );
        // SAFETY: (1) both are mapped by entry.s, and the target is free memory that was just taken; (2) an instruction,
        // because address zero is no valid pointer to the language.
        unsafe {
            core::arch::asm!(
                "rep movsb",
                inout("rsi") module.start => _,
                inout("rdi") target => _,
                inout("rcx") len => _,
                options(nostack, preserves_flags)
            );
        }
        *module = Span::at(target, len);
    }
}

fn take_crash_record(free: &mut Spans) {
    let wanted = |span: &Span| {
        let start = span.start.max(CRASH_RECORD_START);
        (start + PAGE <= span.end).then_some(start)
    };
    let Some(page) = free.iter().find_map(wanted) else {
        return;
    };
    let taken = Span::at(page, PAGE);
    let parts = free.iter().flat_map(|span| {
        let below = Span {
            start: span.start,
            end: span.end.min(taken.start).max(span.start),
        };
        let above = Span {
            start: span.start.max(taken.end).min(span.end),
            end: span.end,
        };
        [below, above]
    });
    let left: Spans = parts.filter(|part| part.len() > 0).collect();
    *free = left;
    // SAFETY: the page is usable memory that nothing else gets any more, and it will be mapped.
    unsafe { crash::set_page(page as *mut u8) };
}

/// Builds the final page tables out of the front of free memory and changes over to them.
fn map_memory(ram: &Spans, free: &mut Spans) {
    let supply = largest(free);
    let frames = Frames {
        early: Some(Span {
            start: supply.start,
            end: supply.end.min(EARLY_MAP_END),
        }),
    };
    let mut tables = PageTables::new(frames, cpu::has(cpu::Feature::GiantPages))
        .expect("no memory for page tables");
    let mut map = |span, access| tables.map(span, access).expect("memory is described twice");
    for span in ram {
        map(*span, Access::ReadWrite);
    }
    map(image::text(), Access::ReadExecute);
    map(image::rodata(), Access::Read);
    map(image::symbols_span(), Access::Read);
    let mut data = image::data();
    for stack in image::stacks() {
        map(
            Span {
                start: data.start,
                end: stack.guard().start,
            },
            Access::ReadWrite,
        );
        data.start = stack.guard().end;
    }
    map(data, Access::ReadWrite);
    // SAFETY: the tables map all memory that is in use, where it is.
    unsafe {
        core::arch::asm!("mov cr3, {}", in(reg) tables.root(), options(nostack, preserves_flags))
    };
    if let Some(rest) = tables.memory_mut().early.take() {
        supply.start = rest.start;
    }
    *TABLES.lock() = Some(tables);
}

fn copy(told: &Handover) -> BootInfo {
    let text = |span: &Span| {
        let bytes = copy_physical(span.start, span.len() as usize).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let module = |(span, line): &(Span, Span)| Module {
        name: text(line),
        bytes: copy_physical(span.start, span.len() as usize).unwrap_or_default(),
    };
    BootInfo {
        loader: told.loader,
        command_line: text(&told.line),
        memory: told.ranges.to_vec(),
        modules: told.modules.iter().map(module).collect(),
        rsdp: told.rsdp,
        heap_bytes: heap::stats().total_bytes as u64,
    }
}

/// Makes device memory accessible; null for ordinary memory and what cannot be mapped.
fn map_device(physical: u64, len: usize) -> *mut u8 {
    if len == 0 || !map_pages(physical, len, Access::Device) {
        return core::ptr::null_mut();
    }
    physical as *mut u8
}

/// Copies `len` bytes at `physical`, wherever they are; `None` for addresses that nothing can be at.
fn copy_physical(physical: u64, len: usize) -> Option<Vec<u8>> {
    let end = physical.checked_add(len as u64)?;
    if len == 0 {
        return Some(Vec::new());
    }
    for page in (physical / PAGE * PAGE..end).step_by(PAGE as usize) {
        let mapped = TABLES.lock().as_mut()?.access(page).is_some();
        if !mapped && !map_pages(page, PAGE as usize, Access::Read) {
            return None;
        }
    }
    // SAFETY: every page of it is mapped; nothing writes to it while it is copied.
    Some(unsafe { core::slice::from_raw_parts(physical as *const u8, len) }.to_vec())
}

fn map_pages(physical: u64, len: usize, access: Access) -> bool {
    let Some(end) = physical
        .checked_add(len as u64)
        .and_then(|end| end.checked_next_multiple_of(PAGE))
    else {
        return false;
    };
    let span = Span {
        start: physical / PAGE * PAGE,
        end,
    };
    span.start != 0
        && TABLES
            .lock()
            .as_mut()
            .is_some_and(|tables| tables.map(span, access).is_ok())
}

/// Memory for page tables: the early span while there is no heap, the heap afterwards.
struct Frames {
    early: Option<Span>,
}

impl TableMemory for Frames {
    fn allocate(&mut self) -> Option<u64> {
        let address = match &mut self.early {
            Some(span) if span.len() >= PAGE => {
                let address = span.start;
                span.start += PAGE;
                address
            }
            Some(_) => return None,
            None => heap::frames(1)?.as_ptr() as u64,
        };
        // SAFETY: the page is ours alone and mapped.
        unsafe { core::ptr::write_bytes(address as *mut u8, 0, PAGE as usize) };
        Some(address)
    }

    fn table(&mut self, address: u64) -> &mut [u64; 512] {
        // SAFETY: (1) `allocate` made every table, aligned and mapped; (2) the tree owns them, so no two are lent out.
        unsafe { &mut *(address as *mut [u64; 512]) }
    }
}

/// The first 4 GiB of physical memory, as entry.s mapped them.
struct EarlyMap;

impl Physical for EarlyMap {
    fn bytes(&self, address: u64, len: u64) -> Option<&[u8]> {
        if address == 0 || address.checked_add(len)? > EARLY_MAP_END {
            return None;
        }
        // SAFETY: it is mapped, and nothing writes to it while the hand-over is read.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, len as usize) })
    }
}
