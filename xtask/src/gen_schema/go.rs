//! The part of Go's syntax that API type definitions use: named types, struct fields with their tags, string constants.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A type definition.
#[derive(Debug, Clone)]
pub(super) enum Definition {
    /// `type X struct { ... }`
    Struct(Vec<Field>),
    /// `type X Y`: the text of `Y`.
    Named(String),
}

/// A struct's field.
#[derive(Debug, Clone)]
pub(super) struct Field {
    /// The name in Go; empty for an embedded type.
    pub(super) name: String,
    /// The type's text.
    pub(super) go_type: String,
    /// The `json` tag: name, then options.
    pub(super) json: Vec<String>,
    /// The `protobuf` tag's parts.
    pub(super) protobuf: Vec<String>,
}

/// One Go package's types.
#[derive(Debug, Default)]
pub(super) struct Package {
    /// Type definitions, each with the import aliases of its file.
    pub(super) types: BTreeMap<String, (Definition, BTreeMap<String, String>)>,
    /// Types marked `+enum`.
    enums: Vec<String>,
    /// String constants by type.
    constants: BTreeMap<String, Vec<String>>,
}

impl Package {
    /// The values of an enumeration, sorted; `None` when the type is none.
    pub(super) fn enum_values(&self, name: &str) -> Option<Vec<String>> {
        self.enums.iter().any(|e| e == name).then(|| {
            let mut values = self.constants.get(name).cloned().unwrap_or_default();
            values.sort();
            values.dedup();
            values
        })
    }

    fn read(directory: &Path) -> Result<Package> {
        let mut package = Package::default();
        let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
            .with_context(|| format!("read Go package {}", directory.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.sort();
        for file in files {
            let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if !name.ends_with(".go") || name.ends_with("_test.go") || name.contains("generated") {
                continue;
            }
            package.scan(&std::fs::read_to_string(&file)?).with_context(|| format!("parse {}", file.display()))?;
        }
        Ok(package)
    }

    fn scan(&mut self, text: &str) -> Result<()> {
        let imports = imports(text);
        let mut lines = text.lines().peekable();
        let mut marked = false;
        let mut constant_block = false;
        while let Some(line) = lines.next() {
            let trimmed = line.trim();
            if let Some(comment) = trimmed.strip_prefix("//") {
                marked |= comment.trim() == "+enum" && !line.starts_with('\t');
                continue;
            }
            if trimmed.is_empty() && marked {
                continue;
            }
            if line == "const (" {
                constant_block = true;
            } else if line == ")" {
                constant_block = false;
            } else if constant_block || line.starts_with("const ") {
                self.constant(trimmed.strip_prefix("const ").unwrap_or(trimmed));
            } else if let Some(rest) = line.strip_prefix("type ") {
                let (name, rest) = rest.split_once(' ').context("type without a definition")?;
                let definition = if rest == "struct {" {
                    let body: Vec<&str> = lines.by_ref().take_while(|l| *l != "}").collect();
                    Definition::Struct(fields(&body)?)
                } else if rest.starts_with("struct{") {
                    Definition::Struct(Vec::new())
                } else {
                    Definition::Named(rest.split(" //").next().unwrap_or(rest).trim().trim_start_matches("= ").to_owned())
                };
                if marked {
                    self.enums.push(name.to_owned());
                }
                self.types.insert(name.to_owned(), (definition, imports.clone()));
            }
            marked = false;
        }
        Ok(())
    }

    /// `Name Type = "value"`.
    fn constant(&mut self, line: &str) {
        let Some((left, value)) = line.split_once('=') else { return };
        let mut words = left.split_whitespace();
        let (Some(_), Some(go_type), None) = (words.next(), words.next(), words.next()) else { return };
        let value = value.trim();
        let Some(value) = value.strip_prefix('"').and_then(|v| v.split('"').next()) else { return };
        self.constants.entry(go_type.to_owned()).or_default().push(value.to_owned());
    }
}

/// Import aliases: name in the file to package path.
fn imports(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim().trim_start_matches("import ");
        let Some((alias, path)) = line.split_once('"').map(|(alias, rest)| (alias.trim(), rest.trim_end_matches('"'))) else {
            continue;
        };
        if path.contains(' ') || !path.contains('/') || alias.contains(' ') {
            continue;
        }
        let alias = if alias.is_empty() { path.rsplit('/').next().unwrap_or(path) } else { alias };
        found.entry(alias.to_owned()).or_insert_with(|| path.to_owned());
    }
    found
}

fn fields(body: &[&str]) -> Result<Vec<Field>> {
    let mut found = Vec::new();
    let mut block_comment = false;
    for line in body {
        let line = line.trim();
        if line.starts_with("/*") {
            block_comment = true;
        }
        if block_comment {
            block_comment = !line.contains("*/");
            continue;
        }
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        let (declaration, tags) = match line.split_once('`') {
            Some((declaration, tags)) => (declaration.trim(), tags.split('`').next().unwrap_or_default()),
            None => (line.split("//").next().unwrap_or(line).trim(), ""),
        };
        let words: Vec<&str> = declaration.split_whitespace().collect();
        let go_type = match words[..] {
            [embedded] => embedded.to_owned(),
            [_, ref rest @ ..] => rest.join(" "),
            [] => bail!("field without a name: {line}"),
        };
        // Without a tag: an embedded type, or a field that JSON names like Go does.
        let json = tag(tags, "json")
            .unwrap_or_else(|| if words.len() == 1 { vec![String::new(), "inline".into()] } else { vec![words[0].into()] });
        if json[0] == "-" {
            continue;
        }
        let name = if words.len() == 1 { String::new() } else { words[0].to_owned() };
        found.push(Field { name, go_type, json, protobuf: tag(tags, "protobuf").unwrap_or_default() });
    }
    Ok(found)
}

fn tag(tags: &str, key: &str) -> Option<Vec<String>> {
    let start = tags.find(&format!("{key}:\""))? + key.len() + 2;
    let value = tags[start..].split('"').next()?;
    Some(value.split(',').map(str::to_owned).collect())
}

/// All packages read so far, and where modules are.
pub(super) struct Sources {
    module_cache: PathBuf,
    versions: BTreeMap<&'static str, &'static str>,
    packages: BTreeMap<String, Package>,
}

impl Sources {
    /// Modules in a Go module cache, at these versions.
    pub(super) fn new(module_cache: PathBuf, versions: &[(&'static str, &'static str)]) -> Sources {
        Sources { module_cache, versions: versions.iter().copied().collect(), packages: BTreeMap::new() }
    }

    /// The directory of a module.
    pub(super) fn module(&self, module: &str) -> Result<PathBuf> {
        let version = self.versions.get(module).with_context(|| format!("no version known for Go module {module}"))?;
        Ok(self.module_cache.join(format!("{module}@{version}")))
    }

    /// A package by its import path.
    pub(super) fn package(&mut self, path: &str) -> Result<&Package> {
        if !self.packages.contains_key(path) {
            let module = self
                .versions
                .keys()
                .find(|m| path.starts_with(&format!("{m}/")))
                .with_context(|| format!("package {path} is in no known module"))?;
            let directory = self.module(module)?.join(&path[module.len() + 1..]);
            self.packages.insert(path.to_owned(), Package::read(&directory)?);
        }
        Ok(&self.packages[path])
    }
}
