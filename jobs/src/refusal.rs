//! What is wrong with a file, in words for the person who sent it.

/// Why a file can't be imported. The code is the last segment of the problem's type and never changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{why}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    /// From 1; of a row that has several, its first.
    pub(crate) line: Option<u64>,
    pub(crate) why: String,
}

impl Refusal {
    /// About the file as a whole.
    pub(crate) fn of_file(code: &'static str, why: impl Into<String>) -> Self {
        Self { code, line: None, why: why.into() }
    }

    /// About what begins on this line.
    pub(crate) fn at(line: u64, code: &'static str, why: impl Into<String>) -> Self {
        Self { code, line: Some(line), why: why.into() }
    }
}
