//! The second pass: from the spool into one Kafka transaction. Afterwards the import exists.

use std::io::{self, Read as _};

use messaging::transaction::{Output, SingleTransaction};
use shared::{import::ProgressCommand, telemetry::TRACEPARENT};
use tokio::runtime::Handle;

use crate::{
    check::Plan,
    cut::{Cutter, Import, Piece},
    error::Error,
    log::{Accepted, Log},
    spool::SpoolFile,
    table::Table,
};

const READ_BYTES: usize = 64 << 10;

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accepted,
    /// The import was there before.
    Repeated,
}

/// Produces the whole import, or finds that it exists. Blocks, inside a runtime.
///
/// Whether it exists is asked after its transactional id is taken: from then on no other can make it exist under the same id. Only one
/// that `may_exist` is asked for: the id of another is new.
pub(crate) fn produce(
    log: &Log,
    import: &Import,
    plan: &Plan,
    file: &SpoolFile,
    may_exist: bool,
) -> Result<Outcome, Error> {
    let mut transaction = log.take(import.id)?;
    if may_exist && Handle::current().block_on(log.accepted(import.id))?.is_some() {
        return Ok(Outcome::Repeated);
    }
    transaction.begin()?;
    let jobs = send_jobs(&mut transaction, &log.jobs_topic(), import, plan, file)?;
    if jobs != import.jobs {
        // Dropping the transaction aborts it.
        return Err(io::Error::other("the file in the spool is not the one that was checked").into());
    }
    send_notes(&mut transaction, log, import)?;
    transaction.commit()?;
    Ok(Outcome::Accepted)
}

/// Says that the import exists. Last of all: from here to the commit readers of these two topics wait, those of every other import too,
/// and a file may take minutes.
fn send_notes(transaction: &mut SingleTransaction, log: &Log, import: &Import) -> Result<(), Error> {
    let key = import.id.to_string();
    let open = ProgressCommand::Open {
        channel_id: import.channel_id.clone(),
        owner_id: import.owner_id.clone(),
        jobs: import.jobs,
        rows: import.rows,
        mode: import.mode,
    };
    let accepted = Accepted { jobs: import.jobs, rows: import.rows, mode: import.mode };
    transaction.send(&Output::new(&log.commands_topic(), key.clone(), json(&open)))?;
    Ok(transaction.send(&Output::new(&log.accepted_topic(), key, json(&accepted)))?)
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("texts and numbers are JSON")
}

fn send_jobs(
    transaction: &mut SingleTransaction,
    topic: &str,
    import: &Import,
    plan: &Plan,
    file: &SpoolFile,
) -> Result<u32, Error> {
    let (mut table, mut cutter, mut is_header, mut job) = (Table::new(Some(plan.delimiter)), Cutter::new(), true, 0);
    let mut pieces: Vec<Piece> = Vec::new();
    let mut send = |pieces: &mut Vec<Piece>| {
        pieces.drain(..).try_for_each(|piece| {
            let (key, value) = import.record(job, &piece);
            job += 1;
            let record = Output::new(topic, key, value);
            let span = import.traceparent.clone();
            transaction.send(&span.into_iter().fold(record, |record, span| record.header(TRACEPARENT, span)))
        })
    };
    let mut text = Utf8::new(file.read()?);
    while let Some(chunk) = text.next()? {
        table.take(chunk, |row| {
            if !std::mem::take(&mut is_header) {
                pieces.extend(cutter.add(row));
            }
            Ok(())
        })?;
        send(&mut pieces)?;
    }
    table.end(|row| {
        pieces.extend(cutter.add(row));
        Ok(())
    })?;
    pieces.extend(cutter.end());
    send(&mut pieces)?;
    Ok(job)
}

/// A file of UTF-8 in chunks that end between characters.
struct Utf8<R> {
    from: R,
    buffer: Vec<u8>,
    /// Bytes at the buffer's begin that were handed over.
    done: usize,
}

impl<R: io::Read> Utf8<R> {
    fn new(from: R) -> Self {
        Self { from, buffer: Vec::with_capacity(READ_BYTES + 4), done: 0 }
    }

    fn next(&mut self) -> io::Result<Option<&str>> {
        self.buffer.drain(..self.done);
        let read = self.from.by_ref().take(READ_BYTES as u64).read_to_end(&mut self.buffer)?;
        if read == 0 && !self.buffer.is_empty() {
            return Err(io::Error::other("the file in the spool ends within a character"));
        }
        let valid = match str::from_utf8(&self.buffer) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        self.done = valid;
        let text = str::from_utf8(&self.buffer[..valid]).expect("it was found to be");
        Ok((read > 0).then_some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_end_between_characters_and_lose_none() {
        let text = "é😀".repeat(READ_BYTES);
        let (mut chunks, mut all) = (Utf8::new(text.as_bytes()), String::new());
        while let Some(chunk) = chunks.next().unwrap() {
            all.push_str(chunk);
        }
        assert!(all == text);
        let mut cut = Utf8::new(&"é".as_bytes()[..1]);
        assert!(cut.next().is_ok() && cut.next().is_err());
    }
}
