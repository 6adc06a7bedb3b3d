//! Of what class an instance is, from its own file meta information (PS3.10 7.1), as it passes.

/// What is looked at of an instance, bytes: the file meta information stands at its beginning.
pub(super) const HEAD: usize = 2 << 10;

const PREAMBLE: usize = 128;

/// MediaStorageSOPClassUID (0002,0002); none where these bytes are no DICOM file or do not have it.
pub(super) fn of(head: &[u8]) -> Option<String> {
    let mut rest = head.get(PREAMBLE..)?.strip_prefix(b"DICM")?;
    while let [group_0, group_1, element_0, element_1, vr_0, vr_1, more @ ..] = rest {
        if u16::from_le_bytes([*group_0, *group_1]) != 2 {
            return None;
        }
        // Explicit VR, little endian: these alone have a length of four bytes behind two that are reserved.
        let (length, value) = match &[*vr_0, *vr_1] {
            b"OB" | b"UN" => {
                let length = more.get(2..6)?;
                (u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize, more.get(6..)?)
            }
            _ => (usize::from(u16::from_le_bytes([*more.first()?, *more.get(1)?])), more.get(2..)?),
        };
        let text = value.get(..length)?;
        if u16::from_le_bytes([*element_0, *element_1]) == 2 {
            let uid = std::str::from_utf8(text).ok()?.trim_end_matches(['\0', ' ']);
            let is_uid = !uid.is_empty() && uid.len() <= 64 && uid.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            return is_uid.then(|| uid.to_owned());
        }
        rest = value.get(length..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(elements: &[u8]) -> Vec<u8> {
        [&[0; PREAMBLE], b"DICM".as_slice(), elements].concat()
    }

    #[test]
    fn co_16_the_class_is_read_from_the_file_meta_information() {
        let group_length = b"\x02\0\0\0UL\x04\0\x42\0\0\0";
        let version = b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01";
        let class = b"\x02\0\x02\0UI\x1a\x001.2.840.10008.5.1.4.1.1.2\0";
        let whole = file(&[group_length.as_slice(), version, class].concat());
        assert_eq!(of(&whole).as_deref(), Some("1.2.840.10008.5.1.4.1.1.2"));
        for cut in 0..whole.len() {
            assert_eq!(of(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(of(&file(b"\x08\0\x16\0UI\x02\x001.")), None, "no file meta information");
        assert_eq!(of(&file(b"\x02\0\x02\0UI\x04\0<x/>")), None, "no UID");
        assert_eq!(of(b"no file"), None);
    }
}
