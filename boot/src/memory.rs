//! Carving the firmware's map of memory: what may be used, page by page.

use arrayvec::ArrayVec;

use crate::handover::{RANGES_MAX, Span};
use crate::info::{MemoryKind, MemoryRange};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Spans of whole pages, by rising address, without overlap.
pub type Spans = ArrayVec<Span, RANGES_MAX>;

/// The usable memory of `ranges` within `bounds` as whole pages, without what other ranges or `taken` cover.
///
/// Firmware may describe a page twice; then the less usable description counts.
pub fn carve(ranges: &[MemoryRange], taken: &[Span], bounds: Span) -> Spans {
    let mut free = Spans::new();
    for range in ranges
        .iter()
        .filter(|range| range.kind == MemoryKind::Usable)
    {
        let start = range
            .start
            .max(bounds.start)
            .div_ceil(PAGE)
            .saturating_mul(PAGE);
        let end = range.end.min(bounds.end) / PAGE * PAGE;
        if start < end {
            add(&mut free, Span { start, end });
        }
    }
    for range in ranges
        .iter()
        .filter(|range| range.kind != MemoryKind::Usable)
    {
        remove(
            &mut free,
            Span {
                start: range.start,
                end: range.end,
            },
        );
    }
    for span in taken {
        remove(&mut free, *span);
    }
    free
}

/// Puts `span` in, joined with what it touches.
fn add(free: &mut Spans, mut span: Span) {
    free.retain(|other| {
        let touches = other.start <= span.end && span.start <= other.end;
        if touches {
            span = Span {
                start: span.start.min(other.start),
                end: span.end.max(other.end),
            };
        }
        !touches
    });
    let at = free.partition_point(|other| other.start < span.start);
    let _ = free.try_insert(at, span);
}

/// Takes every page that `taken` touches out.
fn remove(free: &mut Spans, taken: Span) {
    if taken.start >= taken.end {
        return;
    }
    let (start, end) = (
        taken.start / PAGE * PAGE,
        taken.end.div_ceil(PAGE).saturating_mul(PAGE),
    );
    let mut left = Spans::new();
    for span in free.iter() {
        let below = Span {
            start: span.start,
            end: span.end.min(start),
        };
        let above = Span {
            start: span.start.max(end),
            end: span.end,
        };
        for part in [below, above] {
            if part.start < part.end {
                let _ = left.try_push(part);
            }
        }
    }
    *free = left;
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Span = Span {
        start: 0,
        end: u64::MAX,
    };

    fn usable(start: u64, end: u64) -> MemoryRange {
        MemoryRange {
            start,
            end,
            kind: MemoryKind::Usable,
        }
    }

    fn reserved(start: u64, end: u64) -> MemoryRange {
        MemoryRange {
            start,
            end,
            kind: MemoryKind::Reserved,
        }
    }

    fn spans(list: &[(u64, u64)]) -> Vec<Span> {
        list.iter()
            .map(|&(start, end)| Span { start, end })
            .collect()
    }

    #[test]
    fn partial_pages_are_left_out() {
        let free = carve(&[usable(0x1001, 0x4fff)], &[], ALL);
        assert_eq!(free[..], spans(&[(0x2000, 0x4000)]));
        assert!(carve(&[usable(0x1001, 0x1fff)], &[], ALL).is_empty());
    }

    #[test]
    fn neighbours_join_and_order_does_not_matter() {
        let free = carve(
            &[
                usable(0x5000, 0x6000),
                usable(0x1000, 0x3000),
                usable(0x3000, 0x5000),
            ],
            &[],
            ALL,
        );
        assert_eq!(free[..], spans(&[(0x1000, 0x6000)]));
    }

    #[test]
    fn a_hole_and_the_image_split_a_range() {
        let map = [
            usable(0x10_0000, 0x100_0000),
            reserved(0x80_6000, 0x80_7000),
        ];
        let image = Span {
            start: 0x20_0000,
            end: 0x30_0001,
        };
        let free = carve(&map, &[image], ALL);
        let expected = [
            (0x10_0000, 0x20_0000),
            (0x30_1000, 0x80_6000),
            (0x80_7000, 0x100_0000),
        ];
        assert_eq!(free[..], spans(&expected));
    }

    #[test]
    fn overlapping_descriptions_take_the_less_usable_one() {
        let free = carve(&[reserved(0x2800, 0x2801), usable(0, 0x4000)], &[], ALL);
        assert_eq!(free[..], spans(&[(0, 0x2000), (0x3000, 0x4000)]));
    }

    #[test]
    fn bounds_and_empty_spans() {
        let bounds = Span {
            start: 0x1000,
            end: 0x3000,
        };
        let free = carve(
            &[usable(0, u64::MAX)],
            &[Span {
                start: 0x2000,
                end: 0x2000,
            }],
            bounds,
        );
        assert_eq!(free[..], spans(&[(0x1000, 0x3000)]));
    }
}
