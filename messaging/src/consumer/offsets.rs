//! Which records of one partition are done, and what is committed to the group for that. Pure.
//!
//! Records may be done out of order. What is committed is the lowest offset that is not done; which of the later ones are not
//! done either, the gaps, goes along as the commit's metadata. So a successor repeats what was under way and not what was
//! done. Offsets that do not exist (transaction markers, aborted and compacted records) hold nothing up.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

/// Bytes of metadata at most: the broker's `offset.metadata.max.bytes` is 4096 by default.
const METADATA_BYTES_MAX: usize = 4000;
/// Says how the rest is to be read.
const FORM: &str = "g1:";

/// The offsets of one partition during one tenure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offsets {
    /// Not done, of those below `received`.
    pending: BTreeSet<i64>,
    /// Everything below it is done or pending.
    received: i64,
    /// Delivered so far in this tenure: everything below it.
    delivered: i64,
}

impl Offsets {
    /// Continues a commit: its offset and its metadata. Metadata that is not this module's is that of another program; it is
    /// passed over.
    pub(super) fn resume(offset: i64, metadata: &str) -> Self {
        let (pending, received) = decode(offset, metadata).unwrap_or_else(|| (BTreeSet::new(), offset));
        Self { pending, received, delivered: offset }
    }

    /// Takes note of a delivered record; `false` when it was done already.
    pub(super) fn accept(&mut self, offset: i64) -> bool {
        if offset < self.delivered {
            return false;
        }
        // What was passed without being delivered does not exist any more.
        self.forget_missing(offset);
        self.delivered = offset + 1;
        if offset >= self.received {
            self.pending.insert(offset);
            self.received = offset + 1;
            return true;
        }
        self.pending.contains(&offset)
    }

    /// Whether it was done in an earlier tenure, or is by now.
    pub(super) fn is_done(&self, offset: i64) -> bool {
        offset < self.received && !self.pending.contains(&offset)
    }

    /// Takes note that a record is done.
    pub(super) fn finish(&mut self, offset: i64) {
        self.pending.remove(&offset);
    }

    /// The client has passed everything below this offset and found nothing more to deliver.
    pub(super) fn pass(&mut self, position: i64) {
        if position > self.delivered {
            self.forget_missing(position);
            self.delivered = position;
            self.received = self.received.max(position);
        }
    }

    /// Gives up what was pending before this tenure and has not been delivered in it up to here.
    fn forget_missing(&mut self, passed: i64) {
        let missing: Vec<i64> = self.pending.range(self.delivered..passed).copied().collect();
        for offset in missing {
            self.pending.remove(&offset);
        }
    }

    /// Whether a record was delivered during this tenure, so that the client's position is of this tenure too.
    pub(super) fn has_begun(&self, start: i64) -> bool {
        self.delivered > start
    }

    /// What to commit: the lowest offset that is not done, and the gaps above it.
    pub(super) fn commit(&self) -> (i64, String) {
        let next = self.pending.first().copied().unwrap_or(self.received);
        (next, encode(next, &self.pending, self.received))
    }
}

/// Numbers of alternating runs: not done, done, not done, …, from the commit's offset on; variable-length, then base64.
fn encode(next: i64, pending: &BTreeSet<i64>, received: i64) -> String {
    if next == received {
        return String::new();
    }
    let (mut bytes, mut at) = (Vec::new(), next);
    let mut offsets = pending.iter().copied().peekable();
    while let Some(first) = offsets.next() {
        let mut end = first + 1;
        while offsets.next_if_eq(&end).is_some() {
            end += 1;
        }
        let mut more = Vec::new();
        if first > next {
            varint(first - at, &mut more);
        }
        varint(end - first, &mut more);
        // What does not fit is repeated by the successor: nothing is taken for done that is not.
        if FORM.len() + (bytes.len() + more.len() + 10).div_ceil(3) * 4 > METADATA_BYTES_MAX {
            let done = if first > next { first - at } else { 0 };
            varint(done, &mut bytes);
            return format!("{FORM}{}", STANDARD_NO_PAD.encode(bytes));
        }
        bytes.extend(more);
        at = end;
    }
    varint(received - at, &mut bytes);
    format!("{FORM}{}", STANDARD_NO_PAD.encode(bytes))
}

/// Pending offsets and where they end. `None` when it is not in this form.
fn decode(next: i64, metadata: &str) -> Option<(BTreeSet<i64>, i64)> {
    let bytes = STANDARD_NO_PAD.decode(metadata.strip_prefix(FORM)?).ok()?;
    let (mut rest, mut at, mut pending, mut is_done) = (&bytes[..], next, BTreeSet::new(), false);
    while !rest.is_empty() {
        let (run, after) = read_varint(rest)?;
        let end = at.checked_add(run)?;
        if !is_done {
            // Only a commit that this module has not made could be so large.
            if pending.len() + usize::try_from(run).ok()? > 1_000_000 {
                return None;
            }
            pending.extend(at..end);
        }
        (rest, at, is_done) = (after, end, !is_done);
    }
    Some((pending, at))
}

fn varint(number: i64, bytes: &mut Vec<u8>) {
    let mut rest = number.cast_unsigned();
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

fn read_varint(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let length = bytes.iter().take(9).position(|byte| byte & 0x80 == 0)? + 1;
    let number = bytes[..length].iter().rev().fold(0_i64, |number, byte| number << 7 | i64::from(byte & 0x7f));
    Some((number, &bytes[length..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delivered(start: i64, offsets: impl IntoIterator<Item = i64>) -> Offsets {
        let mut state = Offsets::resume(start, "");
        offsets.into_iter().for_each(|offset| assert!(state.accept(offset)));
        state
    }

    #[test]
    fn the_lowest_record_that_is_not_done_is_committed() {
        let mut state = delivered(0, 0..5);
        assert_eq!(state.commit().0, 0);
        state.finish(1);
        state.finish(3);
        assert_eq!(state.commit().0, 0);
        state.finish(0);
        assert_eq!(state.commit().0, 2);
        [2, 4].iter().for_each(|offset| state.finish(*offset));
        assert_eq!(state.commit(), (5, String::new()));
    }

    #[test]
    fn offsets_that_do_not_exist_hold_nothing_up() {
        let mut state = delivered(10, [12, 15]);
        assert_eq!(state.commit().0, 12, "10 and 11 are not there");
        state.finish(12);
        assert_eq!(state.commit().0, 15);
        state.finish(15);
        state.pass(18);
        assert_eq!(state.commit(), (18, String::new()), "markers at the tail are passed");
        state.pass(3);
        assert_eq!(state.commit().0, 18, "and never back");
    }

    #[test]
    fn a_successor_repeats_what_was_not_done_and_nothing_else() {
        let mut state = delivered(0, 0..10);
        [0, 2, 3, 5, 8].iter().for_each(|offset| state.finish(*offset));
        let (offset, metadata) = state.commit();
        let mut successor = Offsets::resume(offset, &metadata);
        let repeated: Vec<i64> = (offset..12).filter(|offset| successor.accept(*offset)).collect();
        assert_eq!(repeated, [1, 4, 6, 7, 9, 10, 11]);
    }

    #[test]
    fn a_pending_record_that_retention_has_removed_is_given_up() {
        let mut state = delivered(0, 0..4);
        [1, 3].iter().for_each(|offset| state.finish(*offset));
        let (offset, metadata) = state.commit();
        let mut successor = Offsets::resume(offset, &metadata);
        assert!(successor.accept(4));
        assert_eq!(successor.commit().0, 4, "0 and 2 were not delivered again");
    }

    #[test]
    fn metadata_of_somebody_else_is_passed_over() {
        for metadata in ["", "host-7", "g1:", "g1:!", "g1:gICAgICAgICAgAE", "g2:AQ"] {
            let mut state = Offsets::resume(5, metadata);
            assert!(state.accept(5), "{metadata}");
            assert_eq!(state.commit().0, 5);
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_not_done_is_taken_for_done(
            done in proptest::collection::btree_set(0..6000_i64, 0..6000),
            start in prop_oneof![Just(0_i64), Just(1 << 40)],
        ) {
            let mut state = delivered(start, start..start + 6000);
            done.iter().for_each(|offset| state.finish(start + offset));
            let (offset, metadata) = state.commit();
            prop_assert!(metadata.len() <= METADATA_BYTES_MAX);
            let mut successor = Offsets::resume(offset, &metadata);
            let repeated: BTreeSet<i64> = (offset..start + 6000).filter(|offset| successor.accept(*offset)).collect();
            let not_done: BTreeSet<i64> = (0..6000).filter(|o| !done.contains(o)).map(|o| start + o).collect();
            prop_assert!(repeated.is_superset(&not_done));
            // All of them fit unless there are very many gaps.
            if metadata.len() < METADATA_BYTES_MAX - 60 {
                prop_assert_eq!(repeated, not_done);
            }
        }
    }
}
