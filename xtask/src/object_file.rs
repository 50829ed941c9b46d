//! What matters in a compiled kernel object: its program and map sections.
//!
//! Debug sections are removed before an object is committed; the BTF, which the loader needs, stays.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use object::{
    Object as _, ObjectSection as _,
    build::elf::{Builder, SectionData},
};
use sha2::{Digest as _, Sha256};

/// Digest by section name.
pub type Sections = BTreeMap<String, String>;

/// Sections that hold code, constants and maps; the BTF because it holds the definitions of the maps.
///
/// Symbol and relocation tables are left out: names in them carry a hash of the checkout's path.
const COMPARED: [&str; 8] = ["xdp", ".text", ".maps", ".BTF", "license", ".rodata", ".data", ".bss"];
/// The same for sections with a suffix, as `xdp.frags` or `.rodata.str1.1`.
const COMPARED_PREFIXES: [&str; 4] = ["xdp.", "xdp/", ".rodata.", ".data."];

/// The object without DWARF sections and their relocations.
///
/// # Errors
/// The input is no ELF object, or it has no BTF, without which its maps cannot be read.
pub fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the object is no readable ELF file")?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    if !builder.sections.iter().any(|section| section.name.as_slice() == b".BTF") {
        bail!("the object has no .BTF section; was it linked with `--btf`?");
    }
    // LLVM keeps section names in the symbols' string table; the builder wants a table of their own.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        add_name_table(&mut builder);
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("could not write the stripped object")?;
    Ok(stripped)
}

fn add_name_table(builder: &mut Builder<'_>) {
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
}

/// The digests of all program and map sections.
///
/// # Errors
/// The input is no ELF object or holds no program.
pub fn sections(object: &[u8]) -> Result<Sections> {
    let file = object::File::parse(object).context("the object is no readable ELF file")?;
    let mut sections = Sections::new();
    for section in file.sections() {
        let name = section.name().context("a section name is unreadable")?;
        if is_compared(name) {
            let data = section.data().with_context(|| format!("section {name} is unreadable"))?;
            sections.insert(name.to_owned(), sha256(data));
        }
    }
    if !sections.keys().any(|name| name.starts_with("xdp")) {
        bail!("the object holds no XDP program");
    }
    Ok(sections)
}

/// One line for each section that differs between two objects, empty when they agree.
pub fn differences(left: &Sections, right: &Sections) -> Vec<String> {
    let changed = left.iter().filter_map(|(name, digest)| match right.get(name) {
        None => Some(format!("{name} is gone")),
        Some(other) => (other != digest).then(|| format!("{name} differs")),
    });
    let added = right.keys().filter(|name| !left.contains_key(*name)).map(|name| format!("{name} is new"));
    changed.chain(added).collect()
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_compared(name: &str) -> bool {
    COMPARED.contains(&name) || COMPARED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_program_and_map_sections_are_compared() {
        for name in ["xdp", "xdp.frags", "xdp/devmap", ".text", ".maps", ".BTF", "license", ".rodata.str1.1"]
        {
            assert!(is_compared(name), "{name} should be compared");
        }
        for name in [".relxdp", ".symtab", ".strtab", ".debug_info", ".BTF.ext", "xdpx"] {
            assert!(!is_compared(name), "{name} should not be compared");
        }
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        let sections = |list: &[(&str, &str)]| -> Sections {
            list.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned())).collect()
        };
        let left = sections(&[(".maps", "1"), (".text", "2"), ("xdp", "3")]);
        let right = sections(&[(".rodata", "4"), (".text", "2"), ("xdp", "5")]);
        assert_eq!(differences(&left, &right), [".maps is gone", "xdp differs", ".rodata is new"]);
        assert!(differences(&left, &left).is_empty());
    }

    fn elf(names: &[&'static str]) -> Vec<u8> {
        let mut builder = Builder::new(object::Endianness::Little, true);
        builder.header.e_type = object::elf::ET_REL;
        builder.header.e_machine = object::elf::EM_BPF;
        for name in names {
            let section = builder.sections.add();
            section.name = (*name).into();
            section.sh_type = object::elf::SHT_PROGBITS;
            section.sh_addralign = 1;
            section.data = SectionData::Data(name.as_bytes().into());
        }
        add_name_table(&mut builder);
        let mut bytes = Vec::new();
        builder.write(&mut bytes).expect("the object is written");
        bytes
    }

    #[test]
    fn stripping_removes_debug_sections_and_leaves_the_rest_as_it_is() {
        let object = elf(&["xdp", ".maps", ".BTF", ".debug_info", ".rel.debug_info"]);
        let stripped = strip(&object).expect("it can be stripped");
        assert_eq!(sections(&stripped).expect("sections"), sections(&object).expect("sections"));
        let file = object::File::parse(&*stripped).expect("an ELF file");
        assert!(file.section_by_name(".BTF").is_some(), "the BTF stays");
        assert!(!file.sections().any(|section| section.name().is_ok_and(|name| name.contains("debug"))));
    }

    #[test]
    fn an_object_without_btf_or_without_a_program_is_refused() {
        let error = strip(&elf(&["xdp", ".debug_info"])).expect_err("there is no BTF");
        assert!(error.to_string().contains(".BTF"), "{error}");
        let error = sections(&elf(&[".text", ".BTF"])).expect_err("there is no program");
        assert!(error.to_string().contains("no XDP program"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_object_is_refused() {
        assert!(strip(b"not an object").is_err());
        assert!(sections(b"not an object").is_err());
    }
}
