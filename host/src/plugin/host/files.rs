//! Files a configuration names, for the time of `configure`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::plugin::instance::Config;

/// Bytes of one file.
pub(super) const FILE_BYTES_MAX: u64 = 4 << 20;
/// Bytes of all files of one `configure`.
pub(super) const FILES_BYTES_MAX: u64 = 32 << 20;

/// What may be read: files that stand in the configuration as strings, and
/// those in the same folders.
#[derive(Debug)]
pub(in crate::plugin) struct FileAccess {
    config: Arc<Config>,
    /// Looked up when the first file is asked for: most guests ask for none, and
    /// a new instance is to cost them nothing here.
    folders: Option<Vec<PathBuf>>,
    left: u64,
}

impl FileAccess {
    /// What `config` allows to be read.
    pub(in crate::plugin) fn of(config: &Arc<Config>) -> Self {
        Self { config: Arc::clone(config), folders: None, left: FILES_BYTES_MAX }
    }

    /// Reads a file; relative paths start from `base`.
    pub(super) fn read(&mut self, base: &Path, path: &str) -> Result<Vec<u8>, String> {
        // Resolved first, so that neither `..` nor a link leads out.
        let resolved = base.join(path).canonicalize().map_err(|error| format!("{path}: {error}"))?;
        let folder = resolved.parent().unwrap_or(Path::new("/"));
        let folders = self.folders.get_or_insert_with(|| folders_in(&self.config.value, base));
        if !folders.iter().any(|allowed| allowed == folder) {
            return Err(format!("{path}: is neither named by the configuration nor beside a file that is"));
        }
        let file = File::open(&resolved).map_err(|error| format!("{path}: {error}"))?;
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(format!("{path}: is not a file"));
        }
        let most = FILE_BYTES_MAX.min(self.left);
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes).map_err(|error| format!("{path}: {error}"))?;
        if bytes.len() as u64 > most {
            return Err(format!(
                "{path}: is larger than {FILE_BYTES_MAX} bytes, or all files together than {FILES_BYTES_MAX}"
            ));
        }
        self.left -= bytes.len() as u64;
        Ok(bytes)
    }
}

fn folders_in(config: &Value, base: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    collect(config, base, &mut folders);
    folders
}

fn collect(value: &Value, base: &Path, folders: &mut Vec<PathBuf>) {
    match value {
        Value::String(text) if text.len() < 4096 && !text.contains('\n') => {
            let Ok(path) = base.join(text).canonicalize() else { return };
            if path.is_file()
                && let Some(folder) = path.parent()
                && !folders.iter().any(|known| known == folder)
            {
                folders.push(folder.to_owned());
            }
        }
        Value::Array(list) => list.iter().for_each(|item| collect(item, base, folders)),
        Value::Object(map) => map.values().for_each(|item| collect(item, base, folders)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_named_files_and_those_beside_them_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("rules/a.conf", "a");
        write("rules/b.data", "b");
        write("rules/deep/c", "c");
        write("secret/key", "k");
        std::os::unix::fs::symlink(folder.path().join("secret/key"), folder.path().join("rules/link"))
            .unwrap();
        let config = json!({"mode": "detect", "rules": ["rules/a.conf", "SecRule ARGS \"@rx x\" \"id:1\""]});
        let mut files = FileAccess::of(&Config::new(config));
        let mut read = |path| files.read(folder.path(), path);
        assert_eq!(read("rules/a.conf").unwrap(), b"a");
        assert_eq!(read("rules/b.data").unwrap(), b"b");
        for path in
            ["rules/deep/c", "secret/key", "rules/../secret/key", "rules/link", "/etc/passwd", "rules", ""]
        {
            assert!(read(path).is_err(), "{path}");
        }
    }
}
