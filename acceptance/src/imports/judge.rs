//! What must be so at the end, of everything that can be asked for: contacts, ledger, state, error file, and what channels tell.

use std::pin::pin;

use anyhow::{Context, Result, bail, ensure};
use futures_util::TryStreamExt;
use serde_json::Value;
use tokio_postgres::Client;

use super::browser::{Frame, connect, next};
use super::{Counts, Fault, Owner, Sheet};

/// An import that was accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) import: String,
    pub(super) sheet: Sheet,
}

/// The contacts of an owner are those of the model, each of them and no other.
pub(super) async fn contacts(database: &Client, owner: &Owner) -> Result<()> {
    let query = "select email, name, phone from contact where owner_id = $1";
    let mut rows = pin!(database.query_raw(query, [&owner.id]).await?);
    let mut found = 0;
    while let Some(row) = rows.try_next().await? {
        owner.judge(row.get(0), row.get(1), row.get(2)).with_context(|| format!("a contact of {}", owner.id))?;
        found += 1;
    }
    // An owner has each address once, so equal numbers mean equal contacts.
    ensure!(found == owner.contacts(), "{} has {found} contacts instead of {}", owner.id, owner.contacts());
    Ok(())
}

/// Exactly these imports have jobs in the ledger, each job once, and the rows of each are counted as the model counts them.
pub(super) async fn ledger(database: &Client, accepted: &[Accepted]) -> Result<()> {
    let query =
        "select import_id::text, sum(imported)::bigint, sum(updated)::bigint, sum(skipped)::bigint, sum(failed)::bigint
        from import_job group by import_id";
    let rows = database.query(query, &[]).await?;
    ensure!(rows.len() == accepted.len(), "the ledger has {} imports instead of {}", rows.len(), accepted.len());
    for row in rows {
        let import: &str = row.get(0);
        let Accepted { sheet, .. } = accepted.iter().find(|it| it.import == import).context("a known import")?;
        let count = |at| row.get::<_, i64>(at).cast_unsigned();
        let counts = Counts { imported: count(1), updated: count(2), skipped: count(3), failed: count(4) };
        ensure!(counts == sheet.counts, "the ledger of {import}: {counts:?} instead of {:?}", sheet.counts);
    }
    Ok(())
}

/// What jobs says of an import: its state, and the error file to the row.
pub(super) async fn answers(jobs: &str, Accepted { import, sheet }: &Accepted) -> Result<()> {
    let http = reqwest::Client::new();
    let state: Value = http.get(format!("http://{jobs}/v1/imports/{import}")).send().await?.json().await?;
    let number = |name: &str| state[name].as_u64().unwrap_or(u64::MAX);
    let counts = Counts {
        imported: number("imported"),
        updated: number("updated"),
        skipped: number("skipped"),
        failed: number("failed"),
    };
    let is_whole = state["state"] == "completed" && number("jobs") == number("jobs_done");
    ensure!(is_whole && counts == sheet.counts, "{state} instead of {:?}", sheet.counts);
    let file = http.get(format!("http://{jobs}/v1/imports/{import}/errors.csv")).send().await?.error_for_status()?;
    let faults = faults(&file.text().await?)?;
    let differs = faults.iter().zip(&sheet.faults).find(|(told, right)| told != right);
    ensure!(differs.is_none(), "the error file of {import}: {differs:?}");
    ensure!(faults.len() == sheet.faults.len(), "{} errors instead of {}", faults.len(), sheet.faults.len());
    Ok(())
}

/// Whoever comes with a cursor, at whichever notifier, is told of each end behind it once, with its counts, and of nothing twice.
/// `told` is all that a browser has heard; the last of it ends what is listened to.
pub(super) async fn cursors(notifiers: &[String], channel: &str, told: &[Frame]) -> Result<usize> {
    let last = told.last().context("frames")?;
    let ends = |after: Option<(i64, i64)>| -> Result<Vec<(String, String, Counts)>> {
        let behind = |frame: &&Frame| frame.is_end() && frame.place().is_ok_and(|place| Some(place) > after);
        let end = |frame: &Frame| Ok((frame.import.clone(), frame.cursor.clone(), frame.counts));
        told.iter().filter(behind).map(end).collect()
    };
    let mut asked = 0;
    let but_last = &told[..told.len() - 1];
    for after in std::iter::once(None).chain(but_last.iter().filter(|it| it.kind != "progress").map(Some)) {
        let (cursor, place) = match after {
            Some(frame) => (frame.cursor.as_str(), Some(frame.place()?)),
            None => ("", None),
        };
        for notifier in notifiers {
            let heard =
                heard_behind(notifier, channel, cursor, last).await.with_context(|| format!("behind {cursor:?}"))?;
            let found = heard.into_iter().filter(Frame::is_end);
            let found: Vec<_> = found.map(|it| (it.import, it.cursor, it.counts)).collect();
            ensure!(found == ends(place)?, "{found:?} is told behind {cursor:?}");
            asked += 1;
        }
    }
    Ok(asked)
}

/// What is told behind a cursor until a frame.
async fn heard_behind(notifier: &str, channel: &str, after: &str, until: &Frame) -> Result<Vec<Frame>> {
    let Ok(mut socket) = connect(notifier, channel, after).await? else { bail!("{notifier} refuses") };
    let hello = next(&mut socket).await?.context("a hello")?;
    ensure!(hello.kind == "hello" && hello.recovered, "{hello:?}");
    let mut heard: Vec<Frame> = Vec::new();
    while heard.last().is_none_or(|last| last.cursor != until.cursor) {
        let frame = next(&mut socket).await?.context("the connection stays")?;
        let behind = heard.last().is_none_or(|last| last.place().ok() < frame.place().ok());
        ensure!(behind, "{frame:?} behind {:?}", heard.last());
        heard.push(frame);
    }
    Ok(heard)
}

/// Line, column and code of each row of an error file.
fn faults(file: &str) -> Result<Vec<Fault>> {
    let mut rows = rows(file).into_iter();
    let header = rows.next().context("a header")?;
    ensure!(header == ["line", "column", "code", "message", "row"], "{header:?}");
    let fault = |row: Vec<String>| {
        let [line, column, code, ..] = row.as_slice() else { bail!("{row:?}") };
        ensure!(row.len() == 5, "{row:?}");
        Ok(Fault { line: line.parse()?, column: column.clone(), code: code.clone() })
    };
    rows.map(fault).collect()
}

/// CSV as RFC 4180 has it.
fn rows(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => field.extend(characters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            character => field.push(character),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_file_is_read_with_its_quotes() {
        let file = "line,column,code,message,row\r\n3,\"email\",\"c\",\"say \"\"x\"\", y\",\"two\nlines\"\r\n";
        let fault = Fault { line: 3, column: "email".to_owned(), code: "c".to_owned() };
        assert_eq!(faults(file).unwrap(), [fault]);
        assert!(faults("line\r\n").is_err());
        assert!(faults("line,column,code,message,row\r\n3,x\r\n").is_err());
    }
}
