//! Uploads: the whole import, or nothing of it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::Shutdown,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use devstack::eventually;
use reqwest::Response;
use serde_json::Value;
use shared::import::{ImportId, Mode};

use crate::stage::{DEADLINE, Stage, answered};

fn location(answer: &Response) -> Result<String> {
    ensure!(answer.status() == 202, "{}", answer.status());
    Ok(answer.headers().get("location").context("a location")?.to_str()?.to_owned())
}

/// A file of so many rows; names need quotes.
fn file(rows: u32) -> String {
    let row = |n| format!("\"Doe, {n}\";n{n}@example.org;x\n");
    "Full name;E-Mail;other\n".to_owned() + &(0..rows).map(row).collect::<String>()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_becomes_jobs_in_one_transaction_and_its_repeat_the_same_import() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    let send = async |body: String| {
        answered(|| stage.upload("&mode=check").header("idempotency-key", "k-1").body(body.clone())).await
    };
    let (one, two) = tokio::join!(send(file(1201)), send(file(1201)));
    // At the same time one may be told that the other is under way; never is it another import.
    let accepted: Vec<_> = [one?, two?].into_iter().filter(|answer| answer.status() != 409).collect();
    let import = location(accepted.first().context("one is accepted")?)?;
    for answer in &accepted {
        ensure!(location(answer)? == import);
    }
    ensure!(location(&send(file(7)).await?)? == import, "a key stands for one import, whatever comes with it later");

    let told = stage.get(&import).await?;
    ensure!(
        told["state"] == "accepted" && told["rows"] == 1201 && told["jobs"] == 4 && told["mode"] == "check",
        "{told}"
    );
    let (jobs, commands) = stage.log(4, 1).await?;
    ensure!(jobs.len() == 4 && commands.len() == 1, "{} jobs, {commands:?}", jobs.len());
    let id = import.rsplit('/').next().and_then(ImportId::parse).context("an id")?;
    ensure!(commands[0].0 == id.to_string() && commands[0].1["open"]["rows"] == 1201, "{commands:?}");
    let rows: Vec<_> = jobs.iter().flat_map(|job| &job.rows).collect();
    for (n, row) in rows.iter().enumerate() {
        ensure!(row.0 == n as u64 + 2 && row.1 == [format!("Doe, {n}"), format!("n{n}@example.org"), "x".to_owned()]);
    }
    for (number, job) in (0..).zip(&jobs) {
        ensure!((job.import_id, job.job, job.jobs, job.mode) == (id, number, 4, Mode::Check));
        ensure!((job.columns.email, job.columns.name, job.columns.phone, job.fields) == (1, Some(0), None, 3));
        ensure!((job.owner_id.as_str(), job.channel_id.as_str()) == ("ada", stage.channel.as_str()));
    }

    let part = "--b\r\ncontent-disposition: form-data; name=\"note\"\r\n\r\nhi\r\n--b\r\n\
        content-disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\n\r\nmail\nx@example.org\n\r\n--b--\r\n";
    let form = async |body: &str| {
        let kind = "multipart/form-data; boundary=b";
        answered(|| stage.upload("").header("content-type", kind).body(body.to_owned())).await
    };
    let other = location(&form(part).await?)?;
    ensure!(other != import && stage.get(&other).await?["rows"] == 1);
    ensure!(form(part.strip_suffix("--b--\r\n").context("an end")?).await?.status() == 400, "a form that breaks off");
    ensure!(stage.spooled()? == 0, "nothing stays in the spool");
    let cancel = stage.url(&format!("{other}/cancel"));
    ensure!(answered(|| stage.http.post(&cancel)).await?.status() == 202);
    let (_, commands) = stage.log(5, 3).await?;
    ensure!(commands.iter().any(|(key, command)| other.ends_with(key) && command == "cancel"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_imported_is_refused_in_words_and_nothing_is_in_the_log() -> Result<()> {
    let stage = Stage::start(&["--rows-max", "1000", "--file-bytes-max", "16MiB"]).await?;
    let long_line = [b"email\n".to_vec(), vec![b'x'; 8 << 20]].concat();
    for (body, status, kind, line) in [
        (b"".to_vec(), 422, "empty-file", None),
        (b"email,name\n".to_vec(), 422, "no-rows", None),
        (b"a,b\n1,2\n".to_vec(), 422, "no-email-column", Some(1)),
        (b"email\na@example.org\n\"b".to_vec(), 422, "unclosed-quote", Some(3)),
        (b"email\na\nZo\xeb\n".to_vec(), 422, "invalid-encoding", Some(3)),
        (b"email\na\0b\n".to_vec(), 422, "not-text", Some(2)),
        (b"PK\x03\x04xlsx".to_vec(), 422, "not-text", None),
        (long_line, 422, "row-too-long", Some(2)),
        (vec![b','; 1_000_000], 422, "too-many-columns", Some(1)),
        ([b"email\n".to_vec(), b"a\n".repeat(1001)].concat(), 422, "too-many-rows", Some(1002)),
        (vec![b'\n'; 17 << 20], 413, "body-too-large", None),
    ] {
        let answer = answered(|| stage.upload("").body(body.clone())).await?;
        let (got, told) = (answer.status(), answer.json::<Value>().await?);
        ensure!(got == status && told["type"] == format!("/problems/{kind}"), "{kind}: {got} {told}");
        ensure!(told["line"].as_u64() == line, "{kind}: {told}");
    }
    let western = b"email,name\na@example.org,Zo\xeb\n".to_vec();
    location(&answered(|| stage.upload("&encoding=windows-1252").body(western.clone())).await?)?;
    for (query, status) in [("channel_id=x.1.y&owner_id=o", 403), ("owner_id=o", 403)] {
        let answer = stage.http.post(stage.url(&format!("/v1/imports?{query}"))).body("email\na\n").send().await?;
        ensure!(answer.status() == status, "{query}: {}", answer.status());
    }
    ensure!(stage.upload("&delimiter=x").body("email\na\n").send().await?.status() == 400);
    ensure!(stage.upload("").header("content-type", "application/json").body("{}").send().await?.status() == 415);
    let no_boundary = stage.upload("").header("content-type", "multipart/form-data").body("email\na\n");
    ensure!(no_boundary.send().await?.status() == 400);
    ensure!(stage.http.get(stage.url("/v1/imports/nobody")).send().await?.status() == 404);
    let unknown = stage.url(&format!("/v1/imports/{}", ImportId::new()));
    ensure!(answered(|| stage.http.get(&unknown)).await?.status() == 404);
    for (answer, status) in [
        (stage.http.get(format!("{unknown}/errors?limit=x")), 400),
        (stage.http.delete(&unknown), 405),
        (stage.http.post(stage.url("/v1/imports/preview")).body(vec![b'x'; 300 << 10]), 413),
    ] {
        let answer = answer.send().await?;
        let kind = answer.headers().get("content-type").context("a type")?;
        ensure!(answer.status() == status && kind == "application/problem+json", "{status}: {answer:?}");
    }
    let (jobs, commands) = stage.log(1, 1).await?;
    ensure!(jobs.len() == 1 && jobs[0].rows[0].1[1] == "Zoë" && commands.len() == 1, "{jobs:?}");
    Ok(())
}

/// Bytes of a row that has no end, and the memory that a service may take, in KiB.
const ENDLESS_BYTES: usize = 256 << 20;
const PEAK_KIB_MAX: u64 = 100 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_an_end_is_refused_whether_quoted_or_not_and_takes_no_memory() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    for begin in ["email\n", "email\n\""] {
        let mut stream = stage.begin_upload(begin.len() + ENDLESS_BYTES, begin)?;
        let mut answer = stream.try_clone()?;
        answer.set_read_timeout(Some(DEADLINE))?;
        // A client that reads only when it has sent everything.
        let sending = thread::spawn(move || {
            let chunk = vec![b'x'; 1 << 20];
            (0..ENDLESS_BYTES / chunk.len()).try_for_each(|_| stream.write_all(&chunk))
        });
        sending.join().expect("it does not panic")?;
        let (mut told, mut buffer) = (String::new(), [0; 4096]);
        while !told.ends_with('}') {
            let bytes = answer.read(&mut buffer)?;
            ensure!(bytes > 0, "the answer breaks off: {told}");
            told += str::from_utf8(&buffer[..bytes])?;
        }
        ensure!(told.starts_with("HTTP/1.1 422") && told.contains("/problems/row-too-long"), "{told}");
        ensure!(told.contains("\"line\":2"), "{told}");
    }
    let peak = stage.peak_kib()?;
    ensure!(peak <= PEAK_KIB_MAX, "{peak} KiB");
    ensure!(stage.spooled()? == 0, "nothing of it stays");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_or_is_killed_leaves_nothing() -> Result<()> {
    let mut stage = Stage::start(&[]).await?;
    let text = file(500);
    let spooled = async |stage: &Stage, files: usize| {
        let is_so = async || stage.spooled().is_ok_and(|found| found == files).then_some(());
        eventually("the spool holds what it should", DEADLINE, is_so).await
    };
    let cut = stage.begin_upload(text.len() + 1, &text)?;
    spooled(&stage, 1).await?;
    cut.shutdown(Shutdown::Both)?;
    spooled(&stage, 0).await?;

    let _killed = stage.begin_upload(text.len() + 1, &text)?;
    spooled(&stage, 1).await?;
    stage.kill()?;
    ensure!(stage.spooled()? == 1, "a killed process leaves its file");
    stage.start_again().await?;
    spooled(&stage, 0).await?;
    let (jobs, commands) = stage.log(0, 0).await?;
    ensure!(jobs.is_empty() && commands.is_empty(), "{commands:?}");
    location(&answered(|| stage.upload("").body(text.clone())).await?)?;
    ensure!(stage.log(2, 1).await?.0.len() == 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_falls_silent_is_cut() -> Result<()> {
    let stage = Stage::start(&["--upload-idle-max", "1s"]).await?;
    let silent = stage.begin_upload(100, "email\n")?;
    silent.set_read_timeout(Some(DEADLINE))?;
    let mut told = String::new();
    BufReader::new(silent).read_line(&mut told)?;
    ensure!(told.starts_with("HTTP/1.1 408"), "{told}");
    ensure!(stage.spooled()? == 0 && stage.log(0, 0).await?.0.is_empty(), "nothing of it stays");
    Ok(())
}
