//! The objects of files, as the sets in which they are sent.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::client::ClientError;
use crate::config::{self, Document, FILE_BYTES_MAX, Format};

/// Objects of one change.
const CHANGE_OBJECTS_MAX: usize = 100;
/// Objects of one trial.
const TRIAL_OBJECTS_MAX: usize = 1000;
/// Bytes of one change or trial.
const BYTES_MAX: usize = 1 << 20;

/// Objects in the order of their kinds: what is named before what names it.
pub(super) struct Objects(Vec<Value>);

impl Objects {
    /// Reads files and directories; `-` is the standard input.
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self, ClientError> {
        let (inputs, paths): (Vec<_>, Vec<_>) =
            paths.iter().cloned().partition(|path| path.as_os_str() == "-");
        let (mut documents, faults) = config::documents(&paths);
        let mut told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        if !inputs.is_empty() {
            let (own, faults) = standard_input()?;
            documents.extend(own);
            told.extend(faults);
        }
        if !told.is_empty() {
            return Err(ClientError::Files(told.join("\n")));
        }
        let mut unique = BTreeMap::new();
        for document in &documents {
            let object = json!({"kind": document.kind.name(), "id": document.id, "value": document.value});
            if unique.insert((document.kind, document.id.clone()), object).is_some() {
                let name = format!("{}/{}", document.kind, document.id);
                return Err(ClientError::Files(format!(
                    "{name} stands there twice, the second time in {}",
                    document.origin
                )));
            }
        }
        if unique.is_empty() {
            return Err(ClientError::Files("there are no objects in these files".to_owned()));
        }
        Ok(Self(unique.into_values().collect()))
    }

    /// The sets that are tried.
    pub(super) fn trials(&self) -> Vec<&[Value]> {
        self.sets(TRIAL_OBJECTS_MAX)
    }

    /// The sets that are written, each whole or not at all.
    pub(super) fn changes(&self) -> Vec<&[Value]> {
        self.sets(CHANGE_OBJECTS_MAX)
    }

    fn sets(&self, count_max: usize) -> Vec<&[Value]> {
        let mut sets = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (index, object) in self.0.iter().enumerate() {
            let size = object.to_string().len();
            if index > start && (index - start >= count_max || bytes + size > BYTES_MAX) {
                sets.push(&self.0[start..index]);
                (start, bytes) = (index, 0);
            }
            bytes += size;
        }
        sets.push(&self.0[start..]);
        sets
    }
}

/// Objects that come by the standard input, as a map of kinds to lists; and
/// what is wrong with them.
fn standard_input() -> Result<(Vec<Arc<Document>>, Vec<String>), ClientError> {
    let mut bytes = Vec::new();
    let reading = io::stdin().lock().take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    reading.map_err(|error| ClientError::Files(format!("the standard input: {error}")))?;
    let parsed = config::parse_standalone(&bytes, Format::Yaml, Path::new("-"));
    let (documents, faults) = parsed.map_err(|error| ClientError::Files(error.to_string()))?;
    Ok((documents.into_iter().map(Arc::new).collect(), faults.iter().map(ToString::to_string).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_objects_become_several_sets_in_the_order_of_kinds() {
        let folder = tempfile::tempdir().unwrap();
        for kind in ["routes", "upstreams"] {
            std::fs::create_dir(folder.path().join(kind)).unwrap();
        }
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        for number in 0..99 {
            write(&format!("routes/{number}.yaml"), "uri: /\nupstream_id: u\n");
        }
        write("upstreams/u.json", "{\"nodes\": {\"a:1\": 1}}");
        let read = || Objects::read(&[folder.path().to_owned()]);
        let objects = read().unwrap();
        let sets = objects.changes();
        assert_eq!((sets.len(), sets[0].len(), &sets[0][0]["kind"]), (1, 100, &json!("upstreams")));
        write("upstreams/v.json", "{\"nodes\": {\"a:1\": 1}}");
        let objects = read().unwrap();
        let sizes: Vec<usize> = objects.changes().iter().map(|set| set.len()).collect();
        assert_eq!((sizes, objects.trials().len()), (vec![100, 1], 1));
        write("routes/large.yaml", &format!("uri: /\ndesc: {}\n", "x".repeat(BYTES_MAX)));
        assert_eq!(read().unwrap().trials().len(), 2, "what is too large goes alone");
        write("upstreams/w.json", "{");
        let error = read().err().unwrap().to_string();
        assert!(error.contains("w.json") && error.contains("JSON"), "{error}");
    }
}
