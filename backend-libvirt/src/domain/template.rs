//! What a domain is beyond what we set: the operator's choice, or ours.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    path::Path,
};

use runner_core::{Error, Result};

use crate::xml::{MAX_BYTES, Tree};

/// What libvirt reads all of, however many there are, and we set the first of.
const SINGLE: [&str; 6] = ["cpu", "devices", "memoryBacking", "metadata", "os", "vcpu"];

/// The document that a domain's is made from.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    source: String,
    text: Cow<'static, str>,
}

impl Template {
    /// A machine with what Linux guests need, and no more.
    pub(crate) fn builtin() -> Self {
        let text = Cow::Borrowed(include_str!("template.xml"));
        Self { source: "the built-in template".to_owned(), text }
    }

    /// The operator's own.
    ///
    /// # Errors
    /// `NotFound` when there is no such file, `Invalid`, naming the file and, where it has one, the line, for
    /// one that cannot be read or is no domain.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let source = path.display().to_string();
        let read = || {
            let mut text = Vec::new();
            // One byte more than is allowed shows that there is more.
            File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut text)?;
            Ok::<_, io::Error>(text)
        };
        let text = read().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::not_found(&source),
            _ => Error::invalid(&source, format!("it cannot be read: {error}")),
        })?;
        Self::parse(source, text)
    }

    fn parse(source: String, text: Vec<u8>) -> Result<Self> {
        let text = String::from_utf8(text).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            Error::invalid(&source, format!("line {line}: it is not UTF-8"))
        })?;
        let template = Self { source, text: text.into() };
        let tree = template.tree()?;
        for name in SINGLE {
            if tree.children(tree.root(), name).len() > 1 {
                let reason = format!("it has <{name}> more than once; put all into one");
                return Err(Error::invalid(&template.source, reason));
            }
        }
        Ok(template)
    }

    /// # Errors
    /// `Invalid` for what is no domain. What was read is one.
    pub(super) fn tree(&self) -> Result<Tree> {
        let text = self.text.trim_start_matches('\u{feff}').trim_start();
        let skipped = self.text.len() - text.len();
        // Blank lines, so that lines keep their numbers.
        let blank = self.text[..skipped].matches('\n').count();
        let tree = match blank {
            0 => Tree::parse(&self.source, text)?,
            _ if text.starts_with("<?xml") => Tree::parse(&self.source, text)?,
            _ => Tree::parse(&self.source, &format!("{}{text}", "\n".repeat(blank)))?,
        };
        match tree.name(tree.root()) {
            Some("domain") => Ok(tree),
            _ => Err(Error::invalid(&self.source, "its outermost element is not <domain>")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: impl Into<Vec<u8>>) -> String {
        let error = Template::parse("guest.xml".to_owned(), text.into()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        error.to_string()
    }

    #[test]
    fn what_is_no_domain_is_refused_with_file_and_line() {
        let error = refused("<domain>\n  <name>a</name>\n  <os>\n</domain>\n");
        assert!(error.starts_with("guest.xml is not valid: line 4: "), "{error}");
        let error = refused("\n\n<domain>&unknown;</domain>");
        assert!(error.contains("line 3: ") && error.contains("unknown"), "{error}");
        let error = refused("<domain>\n\n<q:a/></domain>");
        assert!(error.contains("line 3: "), "{error}");
        let error = refused(b"<domain>\n\xff</domain>".to_vec());
        assert_eq!(error, "guest.xml is not valid: line 2: it is not UTF-8");
        let error = refused("<network/>");
        assert_eq!(error, "guest.xml is not valid: its outermost element is not <domain>");
        let error = refused("<domain><devices/><os/><devices/></domain>");
        assert!(error.ends_with("it has <devices> more than once; put all into one"), "{error}");
        let error = refused("<domain xmlns='urn:other'/>");
        assert!(error.ends_with("not <domain>"), "{error}");
        for text in ["", "domain", "<domain/><domain/>", "<domain", "\0", "<domain a='1' a='2'/>"] {
            refused(text);
        }
    }

    #[test]
    fn entities_cannot_make_a_small_file_large() {
        let bomb = "<?xml version='1.0'?>\n<!DOCTYPE lolz [<!ENTITY a 'aaaa'>\
                    <!ENTITY b '&a;&a;&a;&a;'>]>\n<domain><name>&b;</name></domain>";
        let error = refused(bomb);
        assert!(error.contains("line 2: a document type is not allowed"), "{error}");
        let outside = "<!DOCTYPE d [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><domain>&e;</domain>";
        assert!(refused(outside).contains("document type"));
    }

    #[test]
    fn neither_size_nor_depth_is_without_end() {
        let deep = format!("<domain>{}{}</domain>", "<a>".repeat(5_000), "</a>".repeat(5_000));
        assert!(refused(deep).contains("64 deep"));
        let large = format!("<domain><name>{}</name></domain>", "x".repeat(MAX_BYTES));
        assert!(refused(large).contains("the most is"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guest.xml");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(Template::read(&path).unwrap_err().to_string().contains("the most is"));
    }

    #[test]
    fn a_byte_order_mark_and_a_declaration_are_fine() {
        let text = "\u{feff}\n<?xml version='1.0' encoding='UTF-8'?><domain/>";
        Template::parse("guest.xml".to_owned(), text.into()).unwrap();
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Template::read(&directory.path().join("a")).unwrap_err().is_not_found());
        assert!(matches!(Template::read(directory.path()).unwrap_err(), Error::Invalid { .. }));
    }
}
