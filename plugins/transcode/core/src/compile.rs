//! From the contents of `protos` objects to checked definitions.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::DescriptorPool;
use prost_types::FileDescriptorSet;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use protox::prost::Message as _;

use crate::settings::{CONTENT_MAX, ConfigFault};

/// The definitions of the object `id` and all it imports. Errors in a `.proto`
/// text say the line.
pub(crate) fn compile(id: &str, protos: &BTreeMap<String, String>) -> Result<DescriptorPool, ConfigFault> {
    let Some(content) = protos.get(id) else {
        return Err(ConfigFault::new("proto_id", format_args!("{id:?}: no protos object has this id")));
    };
    for (id, content) in protos {
        if content.len() > CONTENT_MAX {
            let message = format!("{} bytes are over the limit of {CONTENT_MAX}", content.len());
            return Err(ConfigFault::new(format!("protos.{id}"), message));
        }
    }
    match descriptor_set(content) {
        Some(set) => from_set(set).map_err(|message| ConfigFault::new(format!("protos.{id}"), message)),
        None => from_text(id, protos).map_err(|message| ConfigFault::new(format!("protos.{id}"), message)),
    }
}

/// The descriptor set a content is, when it is one. A `.proto` text is no
/// base64: it has spaces between words and a semicolon.
fn descriptor_set(content: &str) -> Option<FileDescriptorSet> {
    let packed: Vec<u8> = content.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes = STANDARD.decode(packed).ok()?;
    let set = FileDescriptorSet::decode(&*bytes).ok()?;
    (!set.file.is_empty()).then_some(set)
}

/// A set made without `--include_imports` may lack Google's own files: they are
/// known here.
fn from_set(mut set: FileDescriptorSet) -> Result<DescriptorPool, String> {
    let google = GoogleFileResolver::new();
    let mut at = 0;
    while let Some(file) = set.file.get(at) {
        let missing: Vec<String> = file
            .dependency
            .iter()
            .filter(|name| !set.file.iter().any(|file| file.name() == **name))
            .cloned()
            .collect();
        for name in missing {
            let file = google.open_file(&name).map_err(|_| {
                format!("the descriptor set lacks {name:?}; make it with protoc --include_imports")
            })?;
            set.file.push(file.file_descriptor_proto().clone());
        }
        at += 1;
    }
    DescriptorPool::from_file_descriptor_set(set).map_err(|error| format!("{error:?}"))
}

fn from_text(id: &str, protos: &BTreeMap<String, String>) -> Result<DescriptorPool, String> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(Contents(protos.clone()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    // The error's debug form is the one with file, line and column.
    compiler.open_file(format!("{id}.proto")).map_err(|error| format!("{error:?}"))?;
    Ok(compiler.descriptor_pool())
}

/// The objects as files: `<id>.proto`, or the id itself.
struct Contents(BTreeMap<String, String>);

impl FileResolver for Contents {
    fn resolve_path(&self, path: &std::path::Path) -> Option<String> {
        path.to_str().map(str::to_owned)
    }

    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let content = self.0.get(name).or_else(|| self.0.get(name.strip_suffix(".proto")?));
        match content {
            Some(content) => File::from_source(name, content),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}
