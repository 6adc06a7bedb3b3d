# Sourced from the project's folder: builds the judges below the target folder, with both versions of OpenSAML that are in the
# field, and names their classes. Further judges are further classes of the same project.
install_packages openjdk-17-jdk-headless maven
mkdir -p "${CARGO_TARGET_DIR:-target}"
judges="$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/judges"
NCP_JUDGES_CLASSPATHS=""
for version in 3.4.6 4.0.1; do
  folder="$judges/opensaml-$version"
  mvn -q -B -f tests/interop/judges/pom.xml -Dncp.target="$folder" -Dopensaml.version="$version" \
    compile dependency:build-classpath -Dmdep.outputFile="$folder/classpath"
  NCP_JUDGES_CLASSPATHS="${NCP_JUDGES_CLASSPATHS:+$NCP_JUDGES_CLASSPATHS }$folder/classes:$(cat "$folder/classpath")"
done
export NCP_JUDGES_CLASSPATHS
