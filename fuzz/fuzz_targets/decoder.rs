//! Whatever bytes a server sends, in whatever pieces: the decoder of replies never panics and never hangs, takes memory in
//! proportion to what arrived, and finds the same messages however the bytes are cut. Run by `scripts/fuzz.mjs`.

#![no_main]

// The addon is a library for Node alone, so that its sources are included here instead of linked.
#[path = "../../src/redis_value.rs"]
#[expect(dead_code, reason = "only the decoder is used here")]
mod redis_value;

#[path = "../../src/stores/redis/decoder.rs"]
mod decoder;

use decoder::{Decoder, Incoming, Malformed};
use libfuzzer_sys::fuzz_target;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Longest input that is also given byte by byte.
const SHORT: usize = 2048;

/// An element has at least three bytes on the wire, or four if it holds others, and then its vector begins with room for
/// four pairs: what is live at once is far below this, but not below what a length alone could ask for.
const MEMORY_PER_BYTE: usize = 400;
const MEMORY_AT_REST: usize = 64 * 1024;

/// Counts what is allocated, and the most that was at once.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: `System` does the work, with unchanged arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is the same, and `memory` came from `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static MEMORY: Counting = Counting;

/// Gives `bytes` to a decoder in pieces of the sizes that `piece` says, and each message to `take`. The error that ended it.
fn decode(bytes: &[u8], mut piece: impl FnMut() -> usize, mut take: impl FnMut(Incoming)) -> Option<Malformed> {
    let (mut decoder, mut rest) = (Decoder::default(), bytes);
    while !rest.is_empty() {
        let (arrived, later) = rest.split_at(piece().clamp(1, rest.len()));
        rest = later;
        decoder.buffer().extend_from_slice(arrived);
        loop {
            match decoder.next() {
                Ok(Some(incoming)) => take(incoming),
                Ok(None) => break,
                Err(malformed) => return Some(malformed),
            }
        }
    }
    None
}

type Decoded = (Vec<Incoming>, Option<Malformed>);

fn decoded(bytes: &[u8], piece: impl FnMut() -> usize) -> Decoded {
    let mut found = Vec::new();
    let end = decode(bytes, piece, |incoming| found.push(incoming));
    (found, end)
}

/// The same by value, or by text where a value is none: NaN differs from itself.
fn same(one: &Decoded, other: &Decoded) -> bool {
    one == other || format!("{one:?}") == format!("{other:?}")
}

/// Sizes of pieces, mostly small, that follow from one byte of the input. Marsaglia, "Xorshift RNGs".
fn pieces(seed: u8) -> impl FnMut() -> usize {
    let mut state = u32::from(seed) + 1;
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        1 + (state >> (state % 32)) as usize % 300
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&seed, bytes)) = input.split_first() else { return };

    let before = LIVE.load(Relaxed);
    MOST.store(before, Relaxed);
    let _ = decode(bytes, || bytes.len(), drop);
    let taken = MOST.load(Relaxed) - before;
    assert!(taken <= MEMORY_AT_REST + MEMORY_PER_BYTE * bytes.len(), "{taken} bytes of memory for {}", bytes.len());

    let whole = decoded(bytes, || bytes.len());
    let cut = decoded(bytes, pieces(seed));
    assert!(same(&whole, &cut), "whole: {whole:?}\nin pieces: {cut:?}");
    if bytes.len() <= SHORT {
        let single = decoded(bytes, || 1);
        assert!(same(&whole, &single), "whole: {whole:?}\nbyte by byte: {single:?}");
    }
});
