//! Parses the facts. They are part of the program, so that a malformed line is a bug, found by any test.

use std::collections::HashMap;

use super::{
    ALL_VERBS, FieldInfo, GroupInfo, OMIT_EMPTY, OMIT_ZERO, POINTER, REQUIRED, ResourceInfo, ScalarName, Shape, SubresourceInfo,
    TypeId, TypeInfo, TypeKind,
};

/// All facts.
pub(super) struct Schema {
    pub(super) types: Vec<TypeInfo>,
    names: HashMap<&'static str, TypeId>,
    kinds: HashMap<(&'static str, &'static str, &'static str), TypeId>,
    pub(super) enums: HashMap<&'static str, &'static str>,
    pub(super) groups: Vec<GroupInfo>,
    pub(super) resources: Vec<ResourceInfo>,
}

impl Schema {
    pub(super) fn by_name(&self, name: &str) -> Option<&TypeInfo> {
        self.names.get(name).map(|id| &self.types[id.index()])
    }

    pub(super) fn by_kind<'a>(&self, group: &'a str, version: &'a str, kind: &'a str) -> Option<&TypeInfo> {
        self.kind_id((group, version, kind)).map(|id| &self.types[id.index()])
    }

    /// Apart from [`by_kind`](Self::by_kind), so that the map's keys may be seen as living only as long as the question.
    fn kind_id<'a>(&'a self, key: (&'a str, &'a str, &'a str)) -> Option<TypeId> {
        let kinds: &'a HashMap<(&'a str, &'a str, &'a str), TypeId> = &self.kinds;
        kinds.get(&key).copied()
    }
}

/// A field line, or the embedding of another type, before names are resolved.
enum Line {
    Field(&'static str),
    Embedded(&'static str, u16),
}

#[derive(Default)]
struct Loader {
    types: Vec<(TypeInfo, Vec<Line>)>,
    names: HashMap<&'static str, TypeId>,
    shapes: HashMap<&'static str, &'static Shape>,
}

pub(super) fn load(facts: &'static str) -> Schema {
    let mut loader = Loader::default();
    let (mut groups, mut resources, mut enums) = (Vec::<GroupInfo>::new(), Vec::<ResourceInfo>::new(), HashMap::new());
    for line in facts.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        match first {
            "#" => {}
            "G" => groups.push(GroupInfo { name: if rest == "-" { "" } else { rest }, versions: Vec::new() }),
            "V" => groups.last_mut().expect("a version follows its group").versions.push(rest),
            "R" => {
                let group = groups.last().expect("a resource follows its group");
                resources.push(resource(rest, group));
            }
            "S" => resources.last_mut().expect("a subresource follows its resource").subresources.push(subresource(rest)),
            "E" => {
                let (name, values) = rest.split_once(' ').expect("an enumeration has values");
                enums.insert(name, values);
            }
            "T" => loader.start_type(rest),
            "g" => loader.current().0.gvks.push(rest),
            "<" => {
                let (name, number) = rest.split_once(' ').unwrap_or((rest, "-"));
                loader.current().1.push(Line::Embedded(name, number.parse().unwrap_or(0)));
            }
            _ => loader.current().1.push(Line::Field(line)),
        }
    }
    let types = loader.resolve();
    let mut kinds = HashMap::new();
    for (i, info) in types.iter().enumerate() {
        for gvk in &info.gvks {
            let mut parts = gvk.splitn(3, '/');
            let mut part = || parts.next().expect("a kind has three parts");
            kinds.insert((part(), part(), part()), TypeId(i as u16));
        }
    }
    Schema { types, names: loader.names, kinds, enums, groups, resources }
}

impl Loader {
    fn current(&mut self) -> &mut (TypeInfo, Vec<Line>) {
        self.types.last_mut().expect("a field follows its type")
    }

    fn start_type(&mut self, rest: &'static str) {
        let mut words = rest.split(' ');
        let name = words.next().expect("a type has a name");
        let id = TypeId(self.types.len() as u16);
        let mut info = TypeInfo {
            id,
            name,
            kind: TypeKind::Struct,
            fields: Vec::new(),
            map_type: None,
            unions: None,
            gvks: Vec::new(),
            hidden: false,
        };
        for word in words {
            match word.split_once('=') {
                Some(("", special)) => info.kind = special_kind(special),
                Some(("M", map_type)) => info.map_type = Some(map_type),
                Some(("U", unions)) => info.unions = Some(unions),
                _ => info.hidden = true,
            }
        }
        self.names.insert(name, id);
        self.types.push((info, Vec::new()));
    }

    fn resolve(&mut self) -> Vec<TypeInfo> {
        let lines: Vec<Vec<Line>> = self.types.iter_mut().map(|(_, lines)| std::mem::take(lines)).collect();
        for at in 0..lines.len() {
            let mut fields = Vec::new();
            self.collect(at, Embedding::default(), &lines, &mut fields);
            for (position, field) in fields.iter_mut().enumerate() {
                field.position = u8::try_from(position).expect("a type has less than 256 fields");
            }
            fields.sort_by_key(|f| f.name);
            fields.shrink_to_fit();
            self.types[at].0.fields = fields;
        }
        self.types.drain(..).map(|(info, _)| info).collect()
    }

    fn collect(&mut self, at: usize, embedding: Embedding, lines: &[Vec<Line>], fields: &mut Vec<FieldInfo>) {
        for line in &lines[at] {
            match line {
                Line::Field(line) => {
                    let field = self.field(line, embedding);
                    fields.push(field);
                }
                Line::Embedded("TypeMeta", _) => {
                    fields.push(self.field("kind s - o", Embedding::default()));
                    fields.push(self.field("apiVersion s - o", Embedding::default()));
                }
                Line::Embedded(name, number) => {
                    let inner = self.names[name];
                    let numbers = match embedding.numbers {
                        [0, _] => [*number, 0],
                        [outer, 0] => [outer, *number],
                        _ => unreachable!("the facts embed no deeper than two levels"),
                    };
                    let short = name.rsplit('.').next().unwrap_or(name);
                    let names = match embedding.names {
                        ["", _] => [short, ""],
                        [outer, _] => [outer, short],
                    };
                    self.collect(usize::from(inner.0), Embedding { numbers, names }, lines, fields);
                }
            }
        }
    }

    fn field(&mut self, line: &'static str, embedding: Embedding) -> FieldInfo {
        let mut parts = line.splitn(4, ' ');
        let mut part = || parts.next().unwrap_or_default();
        let (name, shape, number, attributes) = (part(), part(), part(), part());
        let mut flags = if shape.starts_with('*') { POINTER } else { 0 };
        for word in attributes.split(' ') {
            flags |= match word {
                "o" => OMIT_EMPTY,
                "z" => OMIT_ZERO,
                "r" => REQUIRED,
                _ => 0,
            };
        }
        FieldInfo {
            name,
            shape: self.shape(shape.trim_start_matches('*')),
            number: number.parse().unwrap_or(0),
            position: 0,
            embedded_in: embedding.numbers,
            embedded_names: embedding.names,
            flags,
            attributes,
        }
    }

    /// One shape for each text, kept for the life of the program.
    fn shape(&mut self, text: &'static str) -> &'static Shape {
        if let Some(shape) = self.shapes.get(text) {
            return shape;
        }
        let (letter, rest) = text.split_at(1);
        let name = ScalarName(rest.strip_prefix(':').unwrap_or_default());
        let shape = match letter {
            "s" => Shape::String(name),
            "b" => Shape::Bool,
            "i" => Shape::Int32(name),
            "l" => Shape::Int64(name),
            "d" => Shape::Float,
            "y" => Shape::Bytes,
            "[" => Shape::List(self.shape(rest.trim_start_matches('*'))),
            "{" => Shape::Map(self.shape(rest.trim_start_matches('*'))),
            "@" => Shape::Type(self.names[rest]),
            other => unreachable!("unknown shape {other} in the facts"),
        };
        let shape: &'static Shape = Box::leak(Box::new(shape));
        self.shapes.insert(text, shape);
        shape
    }
}

/// Where the fields of an embedded struct are: protobuf numbers and Go names, the outermost first.
#[derive(Clone, Copy, Default)]
struct Embedding {
    numbers: [u16; 2],
    names: [&'static str; 2],
}

fn special_kind(name: &str) -> TypeKind {
    match name {
        "quantity" => TypeKind::Quantity,
        "int-or-string" => TypeKind::IntOrString,
        "time" => TypeKind::Time,
        "micro-time" => TypeKind::MicroTime,
        "duration" => TypeKind::Duration,
        "fields" => TypeKind::Fields,
        "raw" => TypeKind::Raw,
        "schema-or-bool" => TypeKind::SchemaOrBool,
        "schema-or-array" => TypeKind::SchemaOrArray,
        "schema-or-strings" => TypeKind::SchemaOrStrings,
        _ => TypeKind::Any,
    }
}

fn list(text: &'static str) -> Vec<&'static str> {
    text.split(',').filter(|s| !s.is_empty()).collect()
}

fn verbs(text: &'static str) -> Vec<&'static str> {
    if text == "*" { ALL_VERBS.to_vec() } else { list(text) }
}

fn resource(line: &'static str, group: &GroupInfo) -> ResourceInfo {
    let mut words = line.split(' ');
    let mut word = || words.next().expect("a resource has four names");
    let (plural, kind, singular, scope) = (word(), word(), word(), word());
    let version = group.versions.last().expect("a resource follows its version");
    let mut info = ResourceInfo {
        group: group.name,
        version,
        plural,
        singular,
        kind,
        kind_group_version: None,
        namespaced: scope == "N",
        verbs: Vec::new(),
        short_names: Vec::new(),
        categories: Vec::new(),
        storage_version_hash: "",
        deprecated: None,
        subresources: Vec::new(),
    };
    for (letter, value) in words.filter_map(|w| w.split_once('=')) {
        match letter {
            "v" => info.verbs = verbs(value),
            "s" => info.short_names = list(value),
            "c" => info.categories = list(value),
            "h" => info.storage_version_hash = value,
            "k" => info.kind_group_version = value.split_once('/'),
            "x" => info.deprecated = Some(value),
            other => unreachable!("unknown attribute {other} of a resource in the facts"),
        }
    }
    info
}

fn subresource(line: &'static str) -> SubresourceInfo {
    let mut words = line.split(' ');
    let mut word = || words.next().expect("a subresource has two names");
    let mut info = SubresourceInfo { name: word(), kind: word(), kind_group_version: None, verbs: Vec::new() };
    for (letter, value) in words.filter_map(|w| w.split_once('=')) {
        match letter {
            "v" => info.verbs = verbs(value),
            "k" => info.kind_group_version = value.split_once('/'),
            _ => {}
        }
    }
    info
}
