//! Texts that are kept to be compared with: a difference in review is the point. `RUNNER_BLESS=1` writes them anew.

use std::path::{Path, PathBuf};

/// Where the text of this name is.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Fails, with the first line that differs, unless `text` is the text of this name.
pub(crate) fn compare(name: &str, text: &str) {
    let path = golden(name);
    if std::env::var_os("RUNNER_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = golden.lines().zip(text.lines()).position(|(old, new)| old != new);
    let line = differs.unwrap_or(golden.lines().count().min(text.lines().count()));
    assert!(
        golden == text,
        "line {} of {} was {:?} and is {:?}; if that is meant, run this test with RUNNER_BLESS=1 and \
         commit the file",
        line + 1,
        path.display(),
        golden.lines().nth(line),
        text.lines().nth(line),
    );
}
