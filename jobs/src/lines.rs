//! Where lines end: at LF, at CR, or at both as one; in quotes too, since an editor counts these as well.

/// Counts ends of lines in a text that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(crate) ended: u64,
    is_behind_cr: bool,
}

impl Lines {
    pub(crate) fn pass(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.ended += u64::from(*byte == b'\r' || (*byte == b'\n' && !self.is_behind_cr));
            self.is_behind_cr = *byte == b'\r';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_counts_once_however_the_text_is_cut() {
        for (text, expected) in [("a\nb\n\n", 3), ("a\rb\r\r", 3), ("a\r\nb\r\n\r\n", 3), ("\n\r\n\r", 3), ("a", 0)] {
            for chunk in 1..=text.len() {
                let mut lines = Lines::default();
                text.as_bytes().chunks(chunk).for_each(|bytes| lines.pass(bytes));
                assert_eq!(lines.ended, expected, "{text:?} {chunk}");
            }
        }
    }
}
