//! `sluice check`: everything that is wrong with a configuration, without
//! putting it in force.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::document::{self, Format};
use super::source::Tree;
use super::store::{Check, DocumentChange, Store};
use super::{Document, DocumentError, Id, Key, Kind, Origin, Problem};

/// What a check has found.
#[derive(Debug, Default)]
pub struct Report {
    /// Everything that is wrong, by file.
    pub findings: Vec<Finding>,
    /// How many objects were checked.
    pub objects: usize,
    /// Whether references were checked as well.
    pub scope: CheckScope,
}

/// How much of a configuration was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CheckScope {
    /// A whole directory, references included.
    #[default]
    Whole,
    /// Single files: what they name may stand in others.
    Files,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub origin: Origin,
    /// In which object, where it is known.
    pub object: Option<Key>,
    /// What.
    pub problem: Box<Problem>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some((kind, id)) = &self.object {
            write!(f, "{kind}/{id}: ")?;
        }
        write!(f, "{}", self.problem)
    }
}

impl From<DocumentError> for Finding {
    fn from(error: DocumentError) -> Self {
        Self { origin: error.origin, object: error.object, problem: error.problem }
    }
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let (objects, faults) = (self.objects, self.findings.len());
        let scope = match self.scope {
            CheckScope::Whole => "",
            CheckScope::Files => " (what they name in other files was not checked)",
        };
        match faults {
            0 => writeln!(f, "{objects} objects, all good{scope}"),
            1 => writeln!(f, "{objects} objects, 1 fault{scope}"),
            _ => writeln!(f, "{objects} objects, {faults} faults{scope}"),
        }
    }
}

/// The objects of directories and files as they are written, without checking
/// them; and what cannot be read.
pub fn documents(paths: &[PathBuf]) -> (Vec<Arc<Document>>, Vec<Finding>) {
    let mut report = Report::default();
    let mut changes = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut tree = Tree::new(path.clone());
            tree.scan_now();
            changes.extend(tree.take_changes());
            report.findings.extend(tree.problems().into_iter().map(Finding::from));
        } else {
            read(path, &mut changes, &mut report);
        }
    }
    let mut documents = Vec::new();
    for change in changes {
        match change {
            DocumentChange::Put(document) => documents.push(document),
            DocumentChange::Broken { key, origin, problems } => {
                report.findings.extend(problems.into_iter().map(|problem| Finding {
                    origin: origin.clone(),
                    object: Some(key.clone()),
                    problem: Box::new(problem),
                }));
            }
            DocumentChange::Deleted(_) => {}
        }
    }
    (documents, report.findings)
}

/// Checks directories and files. A directory is checked as a whole,
/// references included. A file in a folder of the name of a kind is one object,
/// any other file the standalone form; what files name is looked for only when
/// a directory is checked.
pub fn check(paths: &[PathBuf], check: Check) -> Report {
    // Every directory is a configuration of its own; files together are one.
    let check: Arc<parking_lot::Mutex<Check>> = Arc::new(parking_lot::Mutex::new(check));
    let mut report = Report::default();
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut tree = Tree::new(path.clone());
            tree.scan_now();
            let changes = tree.take_changes();
            report.findings.extend(tree.problems().into_iter().map(Finding::from));
            judge(changes, CheckScope::Whole, &check, &mut report);
        } else {
            read(path, &mut files, &mut report);
        }
    }
    if !files.is_empty() {
        report.scope = CheckScope::Files;
        judge(files, CheckScope::Files, &check, &mut report);
    }
    report.findings.sort_by(|a, b| {
        let place = |finding: &Finding| {
            let position = finding.origin.position.map(|at| (at.line, at.column));
            (finding.origin.file.clone(), position, finding.object.clone())
        };
        place(a).cmp(&place(b))
    });
    report
}

fn read(path: &Path, changes: &mut Vec<DocumentChange>, report: &mut Report) {
    let fault = |message: String| Finding::from(DocumentError::file(Origin::file(path), message));
    let Some(format) = Format::of(path) else {
        report.findings.push(fault("is not a .yaml, .yml or .json file, nor a directory".to_owned()));
        return;
    };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            report.findings.push(fault(format!("cannot be read: {error}")));
            return;
        }
    };
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    if let Ok(kind) = Kind::from_name(&folder) {
        let parsed = Id::new(&path.file_stem().unwrap_or_default().to_string_lossy())
            .map_err(|error| fault(format!("the name of the file is not an id: it {error}")))
            .and_then(|id| document::parse_object(kind, &id, &bytes, format, path).map_err(Finding::from));
        match parsed {
            Ok(document) => changes.push(DocumentChange::Put(Arc::new(document))),
            Err(finding) => {
                report.objects += 1;
                report.findings.push(finding);
            }
        }
        return;
    }
    match document::parse_standalone(&bytes, format, path) {
        Ok((documents, errors)) => {
            changes.extend(documents.into_iter().map(|document| DocumentChange::Put(Arc::new(document))));
            report.findings.extend(errors.into_iter().map(Finding::from));
        }
        Err(error) => report.findings.push(error.into()),
    }
}

fn judge(
    changes: Vec<DocumentChange>,
    scope: CheckScope,
    check: &Arc<parking_lot::Mutex<Check>>,
    report: &mut Report,
) {
    report.objects += changes.len();
    let check = check.clone();
    let mut store = Store::new(Box::new(move |object, problems| {
        check.lock()(object, problems);
    }));
    if scope == CheckScope::Whole {
        store.apply(changes, SystemTime::UNIX_EPOCH);
        for ((kind, id), quarantine, _) in store.quarantined() {
            report.findings.extend(quarantine.problems.iter().map(|problem| Finding {
                origin: quarantine.origin.clone(),
                object: Some((*kind, id.clone())),
                problem: Box::new(problem.clone()),
            }));
        }
        return;
    }
    for change in changes {
        let DocumentChange::Put(document) = change else { continue };
        let problems = store.faults_of(&document);
        report.findings.extend(problems.into_iter().map(|problem| Finding {
            origin: document.origin.clone(),
            object: Some((document.kind, document.id.clone())),
            problem: Box::new(problem),
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn told(report: &Report, root: &Path) -> String {
        report.to_string().replace(&format!("{}/", root.display()), "")
    }

    const FILES: [(&str, &str); 5] = [
        ("routes/a.yaml", "uri: a\nupstream_id: gone\nstatus: 3\n"),
        ("routes/b.yaml", "uri: /\nupstream_id: gone\n"),
        ("routes/c.json", "{\"uri\": \"/\"\n \"x\"}"),
        ("services/s.yaml", "upstream: {nodes: {\"a:1\": 1}}\n"),
        ("apisix.yaml", "upstreams:\n  - id: u\n    nodes: {\"a:1\": heavy}\n"),
    ];

    #[test]
    fn a_directory_is_told_every_fault_with_its_references() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &FILES);
        let report = check(&[folder.path().to_owned()], Box::new(|_, _| {}));
        assert_eq!(
            told(&report, folder.path()),
            "apisix.yaml:2:5: upstreams/u: nodes.a:1: expected u32 (\"heavy\")\n\
             routes/a.yaml: routes/a: status: must be 1 (enabled) or 0 (disabled), not 3 (3)\n\
             routes/a.yaml: routes/a: uri: must begin with '/' (\"a\")\n\
             routes/b.yaml: routes/b: upstream_id: upstreams/gone does not exist (\"gone\")\n\
             routes/c.json:2:2: routes/c: is not JSON: expected `,` or `}`\n\
             5 objects, 5 faults\n"
        );
        assert!(!report.is_clean());
    }

    #[test]
    fn files_are_checked_without_what_they_name() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &FILES);
        let paths: Vec<PathBuf> =
            ["routes/b.yaml", "services/s.yaml", "apisix.yaml", "missing.yaml", "x.txt"]
                .map(|path| folder.path().join(path))
                .into();
        let report = check(&paths, Box::new(|_, _| {}));
        assert_eq!(
            told(&report, folder.path()),
            "apisix.yaml:2:5: upstreams/u: nodes.a:1: expected u32 (\"heavy\")\n\
             missing.yaml: cannot be read: No such file or directory (os error 2)\n\
             x.txt: is not a .yaml, .yml or .json file, nor a directory\n\
             3 objects, 3 faults (what they name in other files was not checked)\n"
        );
    }

    #[test]
    fn the_given_check_is_run_on_every_good_object() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[("global_rules/g.yaml", "plugins: {nope: {}}\n")]);
        let check_plugins: Check = Box::new(|object, problems| {
            for name in object.plugins().into_iter().flat_map(|plugins| plugins.keys()) {
                problems.add_plain(&format!("plugins.{name}"), "there is no such plugin");
            }
        });
        let report = check(&[folder.path().to_owned()], check_plugins);
        let expected = "global_rules/g.yaml: global_rules/g: plugins.nope: there is no such plugin\n1 objects, 1 fault\n";
        assert_eq!(told(&report, folder.path()), expected);
    }
}
