//! The tokens file, read again: whoever leaves is out within [`RELOAD_INTERVAL`], without a restart.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{Access, Tokens};

/// The file is looked at so often: a secret that is mounted is exchanged by links, which no watch of a file sees.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the file again and again; never ends.
pub(crate) async fn follow(access: Arc<Access>, file: Option<PathBuf>) {
    let Some(file) = file else { return std::future::pending().await };
    let (mut ticks, mut complaint) = (tokio::time::interval(RELOAD_INTERVAL), None);
    loop {
        ticks.tick().await;
        let (access, file) = (Arc::clone(&access), file.clone());
        let before = complaint.take();
        let read = tokio::task::spawn_blocking(move || reload(&access, &file, before));
        complaint = read.await.expect("it neither panics nor is aborted");
    }
}

/// Takes over what the file says now. A file that cannot be used, or is gone, changes nothing: who operates must not be locked out, nor
/// anybody let in, by half a file. Gives what is wrong, which is told once.
fn reload(access: &Access, file: &Path, complaint: Option<String>) -> Option<String> {
    match Tokens::read(file) {
        Ok(tokens) => {
            let count = tokens.0.len();
            if access.replace(tokens) {
                tracing::info!(count, "other tokens count from now on");
            }
            None
        }
        Err(error) => {
            let error = error.to_string();
            if complaint.as_ref() != Some(&error) {
                tracing::warn!(error, "the tokens file cannot be used; those from before still count");
            }
            Some(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Role, entry};
    use super::*;

    #[test]
    fn what_the_file_says_counts_and_what_is_wrong_with_it_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write(&[entry("ann", Role::Operate, "a"), entry("bob", Role::View, "b")].concat());
        let access = Access::new(Some(Tokens::read(&file).unwrap()));
        let replaced = access.replaced();
        let ((_, ann), (_, bob)) = (access.begin_session("a").unwrap(), access.begin_session("b").unwrap());
        assert_eq!(reload(&access, &file, None), None);
        assert!(!replaced.has_changed().unwrap(), "nothing has changed");

        write("[[token]]\nname = ");
        let complaint = reload(&access, &file, None).expect("it cannot be read");
        std::fs::remove_file(&file).unwrap();
        assert_ne!(reload(&access, &file, Some(complaint.clone())), Some(complaint));
        assert!(access.by_token("a").is_some() && access.by_session(&bob).is_some());

        write(&[entry("ann", Role::Admin, "a"), entry("eve", Role::View, "e")].concat());
        assert_eq!(reload(&access, &file, None), None);
        assert!(replaced.has_changed().unwrap());
        assert_eq!(access.by_session(&ann).map(|caller| caller.role), Some(Role::Admin), "the role of now");
        assert!(access.by_token("b").is_none() && access.by_session(&bob).is_none(), "bob has left");
        assert!(access.by_token("e").is_some());
    }

    #[test]
    fn a_console_without_tokens_gets_none_by_a_file() {
        let access = Access::new(None);
        assert!(!access.replace(Tokens::parse(&entry("ann", Role::Admin, "a")).unwrap()));
        assert!(access.everybody().is_some() && access.by_token("a").is_none());
    }
}
