use super::*;

fn lines(text: &str) -> (Vec<String>, Narrative) {
    let xml = format!("<text xmlns='urn:hl7-org:v3'>{text}</text>");
    let element = Element::parse(xml.as_bytes(), &ncp_xml::Limits::ANSWER).expect("XML");
    let mut narrative = Narrative::default();
    narrative.read(&element);
    (narrative.lines.iter().map(Line::text).collect(), narrative)
}

#[test]
fn co_04_what_changes_meaning_is_kept() {
    for (text, right) in [
        ("Ingen <content revised='delete'>stor </content>svulst", vec!["Ingen svulst"]),
        ("<content revised='insert'>Ny</content> tekst", vec!["Ny tekst"]),
        ("Leukocytter 10<sup>9</sup>/L", vec!["Leukocytter 10\u{2079}/L"]),
        ("H<sub>2</sub>O, T<sub>max</sub>", vec!["H\u{2082}O, T_(max)"]),
        ("x<sup>2a</sup>", vec!["x^(2a)"]),
        (
            "<list listType='ordered'><caption>Funn</caption><item>en</item><item/><item><paragraph>tre</paragraph>\
             </item></list>",
            vec!["Funn", "1. en", "2.", "3. tre"],
        ),
        (
            "<list listType='ordered' styleCode='LittleRoman'><item>a</item><item>b</item><item>c</item>\
             <item>d</item></list>",
            vec!["i. a", "ii. b", "iii. c", "iv. d"],
        ),
        ("<list><item>ute<list><item>inne</item></list></item></list>", vec!["\u{2022} ute", "\u{2022} inne"]),
        (
            "<table><thead><tr><th/><th>2025</th><th>2026</th></tr></thead><tbody><tr><td/><td>4 mm</td><td/></tr>\
             </tbody></table>",
            vec!["\u{2013} | 2025 | 2026", "\u{2013} | 4 mm | \u{2013}"],
        ),
        (
            "<table><tbody><tr><td rowspan='2'>Lever</td><td>a</td></tr><tr><td>b</td></tr>\
             <tr><td colspan='2'>c</td></tr></tbody></table>",
            vec!["Lever | a", "Lever | b", "c | \u{2013}"],
        ),
        (
            "Se <renderMultiMedia referencedObject='MM1'><caption>Pil</caption></renderMultiMedia> her",
            vec!["Se [A picture of the report is not shown here: Pil] her"],
        ),
        ("Svar<footnote ID='f'>usikkert</footnote>", vec!["Svar [note: usikkert]"]),
        ("<linkHtml href='https://a.example/x'>Bilde</linkHtml>", vec!["Bilde <https://a.example/x>"]),
        ("En <content>to</content>\n tre<br/>fire", vec!["En to tre", "fire"]),
        ("for<content styleCode='Bold'>bud</content>t", vec!["forbudt"]),
    ] {
        assert_eq!(lines(text).0, right, "{text}");
    }
}

/// Deleted text is deleted wherever it stands and however it is said, and nothing else goes with it.
#[test]
fn co_04_deleted_text_is_never_shown() {
    let said = [
        "revised='delete'",
        "revised=' delete '",
        "revised='DELETE'",
        "styleCode='Bold Strikethrough'",
        "styleCode='xStrike'",
        "style='text-decoration: line-through'",
    ];
    for deleted in said {
        for text in [
            format!("a<content {deleted}>X</content>b"),
            format!("<paragraph {deleted}>X</paragraph>b"),
            format!("<list><item>a</item><item {deleted}>X</item><content {deleted}>X</content></list>b"),
            format!("<list {deleted}><item>X</item></list>b"),
            format!("<table><tbody><tr><td>a</td><td {deleted}>X</td></tr></tbody></table>b"),
            format!("<table><tbody><tr><content {deleted}>X</content><td>a</td></tr></tbody></table>b"),
            format!("<table><tbody><tr {deleted}><td>X</td></tr></tbody></table>b"),
            format!("<table><thead {deleted}><tr><td>X</td></tr></thead></table>b"),
            format!("<table><tbody><content {deleted}>X</content></tbody></table>b"),
            format!("<table><content {deleted}>X</content></table>b"),
            format!("<tr><td {deleted}>X</td></tr>b"),
            format!("<sup><content {deleted}>X</content></sup>b"),
            format!("<footnote><content {deleted}>X</content></footnote>b"),
            format!("<renderMultiMedia><caption><content {deleted}>X</content></caption></renderMultiMedia>b"),
            format!("<unheard><content {deleted}>X</content></unheard>b"),
        ] {
            let (lines, narrative) = lines(&text);
            assert!(narrative.deleted && !lines.iter().any(|line| line.contains('X')), "{text}: {lines:?}");
            assert!(lines.iter().any(|line| line.contains('b')), "{text}");
        }
    }
}

/// Text is shown wherever it stands, also where CDA has none; and a cell keeps its column however long the table is.
#[test]
fn co_04_no_text_is_left_out() {
    for text in [
        "<list>X<item>a</item></list>",
        "<table>X<tbody><tr><td>a</td></tr></tbody></table>",
        "<table><tbody>X<tr><td>a</td></tr></tbody></table>",
        "<table><tbody><td>X</td><tr><td>a</td></tr></tbody></table>",
        "<table><tbody><tr>X<td>a</td></tr></tbody></table>",
        "<table><tbody><tr><paragraph>X</paragraph></tr></tbody></table>",
        "<list><caption>a</caption><caption>X</caption></list>",
    ] {
        let (lines, _) = lines(text);
        assert!(lines.iter().any(|line| line.contains('X')), "{text}: {lines:?}");
    }
    let rows = format!("<tr><td rowspan='300'>Lever</td><td>0</td></tr>{}", "<tr><td>x</td></tr>".repeat(299));
    let (long, _) = lines(&format!("<table><tbody>{rows}</tbody></table>"));
    assert_eq!((long.len(), long.iter().filter(|line| line.as_str() == "Lever | x").count()), (300, 299));
    // Cells without text cost as those with text do.
    let wide = "<tr><td colspan='100' rowspan='20000'/></tr>".repeat(2_000);
    let (_, narrative) = lines(&format!("<table><tbody>{wide}</tbody></table>"));
    assert!(narrative.exhausted());
}

#[test]
fn co_04_styles_and_omissions_are_known() {
    let (_, narrative) =
        lines("<content styleCode='Bold'>Ikke</content> ramt <content revised='delete'>x</content><q>y</q>");
    assert!(narrative.deleted);
    assert_eq!(narrative.unknown.iter().map(String::as_str).collect::<Vec<_>>(), ["q"]);
    assert!(narrative.lines[0].runs[0].bold && !narrative.lines[0].runs[1].bold);
}

#[test]
fn numbers_in_every_style() {
    assert_eq!([1, 26, 27, 53].map(|n| numbered(n, "BigAlpha")), ["A", "Z", "AA", "BA"]);
    assert_eq!([4, 9, 1994].map(|n| numbered(n, "BigRoman")), ["IV", "IX", "MCMXCIV"]);
    assert_eq!(numbered(7, "Arabic"), "7");
}
