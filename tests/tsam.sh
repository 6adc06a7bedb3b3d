#!/usr/bin/env bash
# OpenNCP's look-up of one code, re-created: its tables with tuned indexes on a PostgreSQL of its own, its sequence of
# queries, each depending on the one before, prepared, over a local socket. Prints one JSON line with milliseconds a code
# and a document of 300 codes, and the same 300 codes in one joined statement. tests/tsam.sh [SECONDS]
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
sql >/dev/null <<'SQL'
create table code_system(id bigint primary key, oid varchar(255), name varchar(255));
create table code_system_version(id bigint primary key, code_system_id bigint, local_name varchar(255), status varchar(255));
create table code_system_concept(id bigint primary key, code varchar(255), code_system_version_id bigint, status varchar(255));
create table designation(id bigint primary key, code_system_concept_id bigint, designation varchar(4000), language_code varchar(255), is_preferred boolean, status varchar(255));
create table transcoding_association(id bigint primary key, source_concept_id bigint, target_concept_id bigint, quality varchar(255), status varchar(255));
insert into code_system values (1, '2.16.578.1.12.4.1.1.7270', 'NCRP'), (2, '2.16.840.1.113883.6.96', 'SNOMED CT');
insert into code_system_version values (1, 1, '2026', 'Current'), (2, 2, '2026', 'Current');
insert into code_system_concept select n, 'NAT' || n, 1, 'Current' from generate_series(1, 10000) n;
insert into code_system_concept select 100000 + n, (100000 + n)::text, 2, 'Current' from generate_series(1, 10000) n;
insert into transcoding_association select n, n, 100000 + n, null, 'valid' from generate_series(1, 10000) n;
insert into designation select n, 100000 + n, 'Designation ' || n, 'en-GB', true, 'Current' from generate_series(1, 10000) n;
create unique index on code_system(oid);
create index on code_system_version(code_system_id);
create unique index on code_system_concept(code, code_system_version_id);
create index on transcoding_association(source_concept_id);
create index on designation(code_system_concept_id, language_code);
vacuum analyze;
SQL
cat >"$dir/code.sql" <<'SQL'
\set n random(1, 10000)
select id as system from code_system where oid = '2.16.578.1.12.4.1.1.7270' \gset
select id as version from code_system_version where code_system_id = :system \gset
select id as concept from code_system_concept where code = 'NAT' || :n and code_system_version_id = :version \gset
select target_concept_id as target from transcoding_association where source_concept_id = :concept \gset
select code_system_version_id as tversion from code_system_concept where id = :target \gset
select code_system_id as tsystem from code_system_version where id = :tversion \gset
select id as found from code_system where id = :tsystem \gset
select id as name from designation where code_system_concept_id = :target and language_code = 'en-GB' order by is_preferred desc \gset
SQL
cat >"$dir/joined.sql" <<'SQL'
\set n random(1, 9700)
select c.code, t.code, s2.oid, d.designation from code_system s join code_system_version v on v.code_system_id = s.id
  join code_system_concept c on c.code_system_version_id = v.id join transcoding_association a on a.source_concept_id = c.id and a.status = 'valid'
  join code_system_concept t on t.id = a.target_concept_id join code_system_version v2 on v2.id = t.code_system_version_id
  join code_system s2 on s2.id = v2.code_system_id left join designation d on d.code_system_concept_id = t.id and d.language_code = 'en-GB'
  where s.oid = '2.16.578.1.12.4.1.1.7270' and c.code = any (array(select 'NAT' || i from generate_series(:n, :n + 299) i));
SQL
chmod 644 "$dir"/*.sql
latency() { "$bin/pgbench" -n -h "$dir" -U postgres -M "$1" -T "$seconds" -f "$dir/$2" postgres 2>/dev/null | sed -n 's/^latency average = \([0-9.]*\) ms.*/\1/p'; }
code="$(latency prepared code.sql)"
joined="$(latency prepared joined.sql)"
printf '{"bench":"terminology","what":"OpenNCP query sequence on PostgreSQL","code_ms":%s,"document_300_ms":%s,"one_joined_statement_300_ms":%s}\n' \
  "$code" "$(awk "BEGIN{print $code*300}")" "$joined"
