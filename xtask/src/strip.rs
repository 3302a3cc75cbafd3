//! Takes the DWARF sections out of the BPF object: they are four fifths of it, BTF was made from them, and the kernel reads
//! only BTF. The object as it was linked stays in cargo's own folder, for `llvm-objdump --source`.

use anyhow::{Context, Result};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// `elf` without its `.debug_*` sections and their relocations.
///
/// # Errors
/// When `elf` is no well-formed ELF object.
pub(crate) fn strip_debug(elf: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(elf).context("read the linked BPF object as ELF")?;
    for section in builder.sections.iter_mut() {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    // The symbols that stood for the sections themselves.
    builder.delete_orphans();
    // LLVM keeps the sections' and the symbols' names in one table; written back, they are two.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("write the BPF object without its debug sections")?;
    Ok(stripped)
}

#[cfg(test)]
mod tests {
    use object::{
        Endianness,
        build::elf::Section,
        elf::{EM_BPF, ET_REL, SHT_PROGBITS},
    };

    use super::*;

    fn add<'a, 'data>(
        builder: &'a mut Builder<'data>,
        name: &'static str,
        data: SectionData<'data>,
    ) -> &'a mut Section<'data> {
        let section = builder.sections.add();
        section.name = name.into();
        section.sh_type = if matches!(data, SectionData::Data(_)) { SHT_PROGBITS } else { SHT_STRTAB };
        section.sh_addralign = 1;
        section.data = data;
        section
    }

    fn linked() -> Vec<u8> {
        let mut builder = Builder::new(Endianness::Little, true);
        builder.header.e_machine = EM_BPF;
        builder.header.e_type = ET_REL;
        add(&mut builder, "classifier", SectionData::Data(b"program.".as_slice().into()));
        add(&mut builder, ".debug_info", SectionData::Data(vec![7; 4096].into()));
        add(&mut builder, ".BTF", SectionData::Data(b"types".as_slice().into()));
        add(&mut builder, ".shstrtab", SectionData::SectionString);
        let mut elf = Vec::new();
        builder.write(&mut elf).expect("write");
        elf
    }

    #[test]
    fn programs_and_btf_stay_and_debug_sections_go() {
        let stripped = strip_debug(&linked()).expect("well-formed");
        assert!(stripped.len() < 4096, "{} bytes", stripped.len());
        let builder = Builder::read(stripped.as_slice()).expect("still ELF");
        let content = |name: &str| {
            let section = builder.sections.iter().find(|section| section.name.as_slice() == name.as_bytes())?;
            let SectionData::Data(data) = &section.data else { panic!("{name}: {:?}", section.data) };
            Some(data.as_slice().to_vec())
        };
        assert_eq!(content("classifier").as_deref(), Some(b"program.".as_slice()));
        assert_eq!(content(".BTF").as_deref(), Some(b"types".as_slice()));
        assert_eq!(content(".debug_info"), None);
        assert_eq!(builder.header.e_machine, EM_BPF);
    }

    #[test]
    fn what_is_no_elf_is_an_error() {
        strip_debug(b"no object").expect_err("not ELF");
    }
}
