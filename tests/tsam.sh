#!/usr/bin/env bash
# OpenNCP's look-ups for a document, re-created: its tables with tuned indexes on a PostgreSQL of its own, filled with the
# maps of translation/maps that we look up too, its sequence of queries, each depending on the one before, prepared, over a
# local socket. Prints one JSON line with milliseconds a code and a document of 300 codes, and the same 300 codes in one
# joined statement. tests/tsam.sh [SECONDS]
set -euo pipefail
seconds="${1:-5}"
bin="$(dirname "$(find /usr/lib/postgresql -name initdb 2>/dev/null | sort | tail -1)")"
[ -x "$bin/initdb" ] || { echo "tests/tsam.sh: PostgreSQL is not installed" >&2; exit 1; }
dir="$(mktemp -d)"
chmod 755 "$dir"
user=()
if [ "$(id -u)" = 0 ]; then
  chown postgres "$dir"
  user=(runuser -u postgres --)
fi
stop() { "${user[@]}" "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$dir"; }
trap stop EXIT
"${user[@]}" "$bin/initdb" -D "$dir/data" -A trust -U postgres >/dev/null
"${user[@]}" "$bin/pg_ctl" -D "$dir/data" -w -o "-k $dir -c listen_addresses='' -c shared_buffers=256MB" -l "$dir/log" start >/dev/null
sql() { psql -q -h "$dir" -U postgres -d postgres -v ON_ERROR_STOP=1 "$@"; }
python3 - translation/maps "$dir" <<'PY'
import glob, json, sys
folder, out = sys.argv[1:]
oid = {"http://loinc.org": "2.16.840.1.113883.6.1", "http://snomed.info/sct": "2.16.840.1.113883.6.96",
       "http://helsedir.no/fhir/CodeSystem/no-kodeverk-7270-ncrp": "2.16.578.1.12.4.1.1.7270"}
bare = lambda system: oid.get(system, system.replace("urn:oid:", ""))
rows, codes = [], []
for file in sorted(glob.glob(folder + "/ConceptMap-*-imaging.r4.json")):
    for group in json.load(open(file))["group"]:
        for element in group["element"]:
            for target in element["target"]:
                # The incumbent knows one target for a code: the first.
                if "code" in target and target["equivalence"] == "equivalent" and (group["source"], element["code"]) not in codes:
                    codes.append((group["source"], element["code"]))
                    rows.append((bare(group["source"]), element["code"], bare(group["target"]), target["code"], target.get("display", target["code"])))
with open(out + "/map", "w") as file:
    file.writelines("\t".join(row) + "\n" for row in rows)
sequence = r"""select id as system from code_system where oid = '{0}' \gset
select id as version from code_system_version where code_system_id = :system \gset
select id as concept from code_system_concept where code = '{1}' and code_system_version_id = :version \gset
select target_concept_id as target from transcoding_association where source_concept_id = :concept \gset
select code_system_version_id as tversion from code_system_concept where id = :target \gset
select code_system_id as tsystem from code_system_version where id = :tversion \gset
select id as found from code_system where id = :tsystem \gset
select designation as name from designation where code_system_concept_id = :target and language_code = 'en-GB' order by is_preferred desc \gset
"""
asked = [rows[i % len(rows)] for i in range(300)]
# pgbench does not bear scripts of many prepared statements: thirty of 80, of which it runs one at random each time.
for part in range(30):
    with open(f"{out}/document{part}.sql", "w") as file:
        file.writelines(sequence.format(*row) for row in asked[part * 10:part * 10 + 10])
pairs = ",".join("('%s','%s')" % row[:2] for row in asked)
with open(out + "/joined.sql", "w") as file:
    file.write(f"""select q.code, t.code, s2.oid, d.designation from (values {pairs}) q(oid, code)
  join code_system s on s.oid = q.oid join code_system_version v on v.code_system_id = s.id
  join code_system_concept c on c.code_system_version_id = v.id and c.code = q.code
  join transcoding_association a on a.source_concept_id = c.id and a.status = 'valid'
  join code_system_concept t on t.id = a.target_concept_id join code_system_version v2 on v2.id = t.code_system_version_id
  join code_system s2 on s2.id = v2.code_system_id
  left join designation d on d.code_system_concept_id = t.id and d.language_code = 'en-GB';
""")
PY
cat >"$dir/tables.sql" <<'SQL'
create table code_system(id bigint primary key, oid varchar(255), name varchar(255));
create table code_system_version(id bigint primary key, code_system_id bigint, local_name varchar(255), status varchar(255));
create table code_system_concept(id bigint primary key, code varchar(255), code_system_version_id bigint, status varchar(255));
create table designation(id bigint primary key, code_system_concept_id bigint, designation varchar(4000), language_code varchar(255), is_preferred boolean, status varchar(255));
create table transcoding_association(id bigint primary key, source_concept_id bigint, target_concept_id bigint, quality varchar(255), status varchar(255));
create temporary table map(source_oid text, code text, target_oid text, target text, name text);
\copy map from pstdin
insert into code_system select row_number() over (), oid, oid from (select source_oid as oid from map union select target_oid from map) s;
insert into code_system_version select id, id, '2026', 'Current' from code_system;
insert into code_system_concept select row_number() over (), code, s.id, 'Current' from
  (select source_oid as oid, code from map union select target_oid, target from map) c join code_system s using (oid);
insert into transcoding_association select row_number() over (), c.id, t.id, null, 'valid' from map m
  join code_system s on s.oid = m.source_oid join code_system_concept c on c.code = m.code and c.code_system_version_id = s.id
  join code_system u on u.oid = m.target_oid join code_system_concept t on t.code = m.target and t.code_system_version_id = u.id;
insert into designation select row_number() over (), t.id, max(m.name), 'en-GB', true, 'Current' from map m
  join code_system u on u.oid = m.target_oid join code_system_concept t on t.code = m.target and t.code_system_version_id = u.id group by t.id;
create unique index on code_system(oid);
create index on code_system_version(code_system_id);
create unique index on code_system_concept(code, code_system_version_id);
create index on transcoding_association(source_concept_id);
create index on designation(code_system_concept_id, language_code);
vacuum analyze;
SQL
sql -f "$dir/tables.sql" <"$dir/map" >/dev/null
chmod 644 "$dir"/*.sql "$dir/map"
latency() {
  "$bin/pgbench" -n -h "$dir" -U postgres -M prepared -T "$seconds" "$@" postgres 2>"$dir/said" |
    sed -n 's/^latency average = \([0-9.]*\) ms.*/\1/p' || { tail -3 "$dir/said" >&2; return 1; }
}
part="$(latency $(seq -f " -f $dir/document%.0f.sql" 0 29))"
document="$(awk "BEGIN{print $part*30}")"
joined="$(latency -f "$dir/joined.sql")"
printf '{"bench":"terminology","what":"OpenNCP query sequence on PostgreSQL","maps":%s,"code_ms":%s,"document_300_ms":%s,"one_joined_statement_300_ms":%s}\n' \
  "$(wc -l <"$dir/map")" "$(awk "BEGIN{print $document/300}")" "$document" "$joined"
