//! Who called whom, from the stack alone.
//!
//! The prebuilt `core` keeps no frame pointers and the image carries no unwind tables, so the stack is searched for
//! what a call leaves behind: a word that points right behind a call instruction. Frames are marked by how far to trust them:
//!
//! - nothing: the call goes to the function of the last such frame;
//! - `~`: the call goes to the function of the frame printed before it;
//! - `?`: a call through a pointer, or what an earlier call left behind.

use core::fmt::{self, Write};

use crate::image;

/// Frames that are printed.
const FRAMES_MAX: usize = 40;

/// Prints the frames of the stack that `stack_pointer` points into, beginning with the instruction at `address`.
pub fn print(out: &mut dyn Write, address: u64, stack_pointer: u64) -> fmt::Result {
    writeln!(out, "backtrace:")?;
    let table = image::symbol_table();
    let function = |address| {
        table
            .and_then(|table| table.find(address))
            .map(|symbol| symbol.start)
    };
    print_frame(out, address, ' ')?;
    // A stack that overflowed is searched from its end, right above the guard that was hit.
    let Some((stack, first)) = image::stacks().into_iter().find_map(|stack| {
        let inside = (stack.guard().start..stack.span.end).contains(&stack_pointer);
        inside.then(|| {
            (
                stack,
                stack_pointer.max(stack.span.start).next_multiple_of(8),
            )
        })
    }) else {
        return writeln!(
            out,
            "  (the stack pointer {stack_pointer:#x} is in no stack)"
        );
    };
    let (mut sure_function, mut last_function) = (function(address), function(address));
    let (mut frames, mut last_word, mut repeats) = (1, 0, 0);
    for at in (first..stack.span.end).step_by(8) {
        // SAFETY: `at` is an aligned address inside a stack, which is mapped.
        let word = unsafe { (at as *const u64).read_volatile() };
        let Some(call) = call_before(word) else {
            continue;
        };
        if word == last_word {
            repeats += 1; // a recursion
            continue;
        }
        if repeats > 0 {
            writeln!(out, "    the same {repeats} times more")?;
        }
        (last_word, repeats) = (word, 0);
        let goes_to = |function: Option<u64>| match call {
            Call::To(target) => function == Some(target),
            Call::Indirect => false,
        };
        let mark = match (goes_to(sure_function), goes_to(last_function)) {
            (true, _) => ' ',
            (false, true) => '~',
            (false, false) => '?',
        };
        // The address of the call, not of what follows it: that may belong to the next function.
        print_frame(out, word - 1, mark)?;
        last_function = function(word - 1);
        if mark == ' ' {
            sure_function = last_function;
            if last_function == Some(image::entry()) {
                return Ok(());
            }
        }
        frames += 1;
        if frames == FRAMES_MAX {
            return writeln!(out, "  (more)");
        }
    }
    Ok(())
}

enum Call {
    To(u64),
    Indirect,
}

/// The call instruction that ends at `address`, if `address` is in the image's code and one does.
fn call_before(address: u64) -> Option<Call> {
    let text = image::text();
    if address < text.start + 8 || address >= text.end {
        return None;
    }
    let mut code = [0; 7];
    for (index, byte) in code.iter_mut().enumerate() {
        // SAFETY: the seven bytes below `address` are in the image's code, which is mapped and never written.
        *byte = unsafe { ((address - 7 + index as u64) as *const u8).read_volatile() };
    }
    decode(&code, address)
}

/// The call instruction that the bytes before `address` end with (Intel SDM volume 2, CALL).
fn decode(code: &[u8; 7], address: u64) -> Option<Call> {
    if let [_, _, 0xe8, a, b, c, d] = *code {
        let distance = i32::from_le_bytes([a, b, c, d]);
        let target = address.wrapping_add_signed(distance.into());
        let text = image::text();
        if (text.start..text.end).contains(&target) {
            return Some(Call::To(target));
        }
    }
    // FF /2 with a register or memory operand of 0, 1 or 4 bytes, with or without a scale byte.
    let is = |at: usize, modes: &[u8], scaled: bool| {
        let mode = code[at + 1];
        code[at] == 0xff
            && (mode >> 3) & 7 == 2
            && modes.contains(&(mode >> 6))
            && (mode >> 6 == 3 || (mode & 7 == 4) == scaled)
    };
    let indirect = is(5, &[0, 3], false)
        || is(4, &[1], false)
        || is(4, &[0], true)
        || is(3, &[1], true)
        || is(1, &[0, 2], false)
        || is(0, &[2], true);
    indirect.then_some(Call::Indirect)
}

fn print_frame(out: &mut dyn Write, address: u64, mark: char) -> fmt::Result {
    match image::symbol_table().and_then(|table| table.find(address)) {
        Some(symbol) => {
            writeln!(
                out,
                "  {mark} {address:#012x} {}+{:#x}",
                symbol.name, symbol.offset
            )
        }
        None => writeln!(out, "  {mark} {address:#012x}"),
    }
}
