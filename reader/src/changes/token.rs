//! A cursor as the opaque text that clients keep: `next` of a long poll, `id:` of an event.
//!
//! Layout, in base64url without padding: `1` (version of the layout), a checksum of 4 bytes (XXH3-64 of what follows, its
//! low half, big endian), then numbers as LEB128: the generation, and for each partition, ascending, the distance to the
//! partition before it, the next offset, and the ordinal. The checksum tells a token from other text; it protects nothing:
//! any token reads only what any client may read.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use super::cursor::{Cursor, Place};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 5;

/// The token of a cursor.
pub(crate) fn token(cursor: &Cursor) -> String {
    let mut content = Vec::with_capacity(4 + cursor.places().len() * 8);
    write(&mut content, i64::from(cursor.generation));
    let mut before = 0;
    for (partition, place) in cursor.places() {
        write(&mut content, i64::from(partition - before));
        write(&mut content, place.next_offset());
        write(&mut content, i64::from(place.ordinal));
        before = partition;
    }
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&checksum(&content));
    bytes.extend_from_slice(&content);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The cursor of a token; `None` when it is not one.
pub(crate) fn cursor(token: &str) -> Option<Cursor> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
    let (header, mut content) = bytes.split_at_checked(HEADER_BYTES)?;
    if header[0] != VERSION || header[1..] != checksum(content) {
        return None;
    }
    let generation = read(&mut content)?.try_into().ok().filter(|generation| *generation > 0)?;
    let (mut places, mut partition) = (Vec::new(), 0_i32);
    while !content.is_empty() {
        let distance: i32 = read(&mut content)?.try_into().ok()?;
        partition = partition.checked_add(distance).filter(|_| distance > 0 || places.is_empty())?;
        let offset = read(&mut content)? - 1;
        places.push((partition, Place { offset, ordinal: read(&mut content)?.try_into().ok()? }));
    }
    Some(Cursor::new(generation, places))
}

fn checksum(content: &[u8]) -> [u8; 4] {
    (xxh3_64(content) as u32).to_be_bytes()
}

/// Writes a number that is not negative.
fn write(out: &mut Vec<u8>, number: i64) {
    let mut rest = number.max(0).unsigned_abs();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Reads a number; `None` when it is cut short or beyond 63 bits.
fn read(bytes: &mut &[u8]) -> Option<i64> {
    let mut number = 0_u64;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return i64::try_from(number).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: i64, ordinal: i32) -> Place {
        Place { offset, ordinal }
    }

    #[test]
    fn a_token_gives_its_cursor_back() {
        for cursor in [
            Cursor::new(1, []),
            Cursor::new(1, [(0, Place::START)]),
            Cursor::new(7, [(0, place(126, 0)), (1, place(127, 1)), (63, place(i64::MAX - 1, i32::MAX))]),
            Cursor::new(i32::MAX, [(i32::MAX, place(1 << 40, 0))]),
        ] {
            let text = token(&cursor);
            assert_eq!(super::cursor(&text), Some(cursor), "{text}");
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{text}");
        }
    }

    #[test]
    fn other_text_is_no_token() {
        let good = token(&Cursor::new(2, [(0, place(9, 0)), (1, place(5000, 0))]));
        let (cut, changed) = (&good[..good.len() - 2], format!("B{}", &good[1..]));
        for bad in ["", "!!!", "AAAA", "earliest", &"x".repeat(500), cut, &changed, &format!("{good}AA")] {
            assert_eq!(cursor(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_with_a_good_checksum_and_bad_numbers_is_none() {
        let of = |content: &[u8]| BASE64_URL_SAFE_NO_PAD.encode([&[VERSION][..], &checksum(content), content].concat());
        assert!(cursor(&of(&[1, 0, 5, 0])).is_some());
        let beyond = [&[1, 0][..], &[0xff; 9], &[0x7f, 0]].concat();
        let doubled: &[u8] = &[1, 3, 5, 0, 0, 5, 0];
        for bad in [&[][..], &[0], &[1, 0], &[1, 0, 5], &[1, 0, 0x80], doubled, &beyond] {
            assert_eq!(cursor(&of(bad)), None, "{bad:?}");
        }
    }
}
