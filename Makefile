# Infiniswap for stock kernels.  `make help` says what there is to make.

PREFIX ?= /usr/local
DESTDIR ?=
ifeq ($(origin CC),default)
CC = gcc
endif
O ?= build
V ?= 0

bindir = $(PREFIX)/bin
sbindir = $(PREFIX)/sbin
mandir = $(PREFIX)/share/man
docdir = $(PREFIX)/share/doc/infiniswap
plugindir = $(PREFIX)/lib/nbdkit/plugins
unitdir = $(PREFIX)/lib/systemd/system
ifeq ($(PREFIX),/usr)
plugindir = $(shell pkg-config --variable=plugindir nbdkit)
endif

# Told once, where Debian's tools look for it.
VERSION := $(shell sed -n '1s/.*(\(.*\)).*/\1/p' debian/changelog)
LIBS = glib-2.0 gio-unix-2.0 json-glib-1.0 libmicrohttpd
FABRIC_LIBS = librdmacm libibverbs
DONOR_LIBS = libsystemd
CTL_LIBS = libnbd libnl-genl-3.0 blkid libsystemd

CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu11 -Wall -Wextra -Werror -fPIC -fvisibility=hidden \
  -pthread -I. -D_GNU_SOURCE -DISW_VERSION='"$(VERSION)"' \
  $(shell pkg-config --cflags $(LIBS) $(FABRIC_LIBS) $(DONOR_LIBS) \
    $(CTL_LIBS) nbdkit check) \
  $(SAN) $(CFLAGS)
ALL_LDFLAGS = -pthread $(SAN) $(LDFLAGS)
ALL_LIBS = $(shell pkg-config --libs $(LIBS) $(FABRIC_LIBS)) -laio -lm

ifeq ($(V),0)
Q = @
say = @printf '  %-5s %s\n' $(1) $(2);
endif

.PHONY: all deps demo check check-unit check-integration check-vm check-slow \
  check-fresh check-asan check-tsan check-valgrind chaos chaos-vm plot-squeeze \
  bench bench-vm bench-writer bench-apps bench-memcached bench-costs \
  bench-stages \
  install deb clean help

all:

# One archive a module, so that a test links what its module needs and
# no more; the order is the order of dependency.
MODULES = nbdkit-plugin donor ctl fabric placement conf
archive = $(O)/lib$(1).a
nbdkit-plugin_MAIN = nbdkit-plugin/plugin.c nbdkit-plugin/config.c
donor_MAIN = donor/main.c
ctl_MAIN = ctl/main.c
# Libraries of one module alone.
donor_LDLIBS = $(shell pkg-config --libs $(DONOR_LIBS))
ctl_LDLIBS = $(shell pkg-config --libs $(CTL_LIBS))
objects = $(patsubst %.c,$(O)/%.o,$(1))
module_objects = $(call objects,$(filter-out $($(1)_MAIN),$(wildcard $(1)/*.c)))

BASE = $(foreach m,fabric placement conf,$(call archive,$(m)))
PLUGIN = $(O)/nbdkit-infiniswap-plugin.so
DONOR = $(O)/infiniswap-donor
CTL = $(O)/infiniswapctl
MANS = $(patsubst %.pod,$(O)/%,$(notdir $(wildcard nbdkit-plugin/*.pod \
  donor/*.pod ctl/*.pod fabric/*.pod)))
UNIT = $(patsubst %.c,$(O)/%,$(wildcard test/unit/*/test_*.c))
TOOLS = $(patsubst %.c,$(O)/%,$(wildcard test/vm/*.c test/integration/*.c))

all: $(PLUGIN) $(DONOR) $(CTL) $(MANS)

# The sanitizers and compilers have build folders of their own; within
# one, a change of flags rebuilds everything.
$(O)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS)' | cmp -s - $@ || \
	  echo '$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS)' > $@
.PHONY: FORCE

$(O)/%.o: %.c $(O)/flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

define archive_rule
$(call archive,$(1)): $(call module_objects,$(1))
	$$(call say,AR,$$@)
	@mkdir -p $$(@D) && rm -f $$@
	$$(Q)ar rcs $$@ $$^
endef
$(foreach m,$(MODULES),$(eval $(call archive_rule,$(m))))

$(PLUGIN): $(call objects,$(nbdkit-plugin_MAIN)) \
  $(call archive,nbdkit-plugin) $(BASE)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -shared -Wl,-z,nodelete -o $@ $^ $(ALL_LIBS)

$(DONOR): $(call objects,$(donor_MAIN)) $(call archive,donor) $(BASE)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(ALL_LIBS) $(donor_LDLIBS)

$(CTL): $(call objects,$(ctl_MAIN)) $(call archive,ctl) $(BASE)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(ALL_LIBS) $(ctl_LDLIBS)

# test/unit/MODULE/test_X.c links MODULE and what that depends on; other
# sources beside it that are not tests are linked into each.
unit_module = $(word 3,$(subst /, ,$(1)))
unit_helpers = $(call objects,$(foreach f,$(wildcard $(1)*.c),\
  $(if $(filter test_%,$(notdir $(f))),,$(f))))
.SECONDEXPANSION:
$(UNIT): $(O)/%: $(O)/%.o \
  $$(call unit_helpers,$$(dir $$*)) \
  $$(call archive,$$(call unit_module,$$*)) $(BASE)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(ALL_LIBS) \
	  $($(call unit_module,$*)_LDLIBS) $(shell pkg-config --libs check)

$(TOOLS): $(O)/%: $(O)/%.o $(BASE)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(ALL_LIBS) \
	  $(shell pkg-config --libs libnbd)

# test/chaos: one program, and a library to be preloaded.
CHAOS = $(O)/test/chaos/load $(O)/test/chaos/sick_disk.so
$(O)/test/chaos/load: $(call objects,$(filter-out test/chaos/sick_disk.c,\
  $(wildcard test/chaos/*.c)))
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(ALL_LIBS) \
	  $(shell pkg-config --libs libnbd)

$(O)/test/chaos/sick_disk.so: $(O)/test/chaos/sick_disk.o \
  $(O)/test/unit/nbdkit-plugin/fake_aio.o
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -shared -o $@ $^

$(O)/%: nbdkit-plugin/%.pod ; $(pod2man)
$(O)/%: donor/%.pod ; $(pod2man)
$(O)/%: ctl/%.pod ; $(pod2man)
$(O)/%: fabric/%.pod ; $(pod2man)
define pod2man
	$(call say,MAN,$@)
	@mkdir -p $(@D)
	$(Q)pod2man --errors=die --section=$(subst .,,$(suffix $(basename $<))) \
	  --name=$(basename $(basename $(notdir $<))) \
	  --center=Infiniswap --release=$(VERSION) $< $@
endef

# ---- tests ----

UNIT_VM = $(O)/test/unit/fabric/test_verbs
UNIT_HOST = $(filter-out $(UNIT_VM),$(UNIT))
INTEGRATION = $(wildcard test/integration/test_*.py)
# Instructions are those of the plain build.
INTEGRATION_CHECKED = $(filter-out %/test_instructions.py,$(INTEGRATION))
VM_TESTS = $(addprefix test/vm/,test_demo.sh test_verbs.sh test_chaos.sh)
VM_SLOW_TESTS = $(filter-out $(VM_TESTS),$(wildcard test/vm/test_*.sh)) \
  test/vm/selftest
CHAOS_TEST = test/chaos/test_chaos.py
RUN = test/run --log-dir $(O)/test-logs
# First the dependencies, then all that needs them.
check: deps
	$(Q)$(MAKE) --no-print-directory check-here

.PHONY: check-here
check-here: all $(UNIT) $(TOOLS) $(CHAOS)
	$(Q)$(RUN) $(UNIT_HOST) $(INTEGRATION) $(CHAOS_TEST) $(VM_TESTS)

check-unit: $(UNIT)
	$(RUN) $(UNIT_HOST)

check-integration: all
	$(RUN) $(INTEGRATION)

check-vm: all $(UNIT) $(TOOLS) $(CHAOS)
	$(RUN) $(VM_TESTS)

check-slow: all $(UNIT) $(TOOLS) $(CHAOS) deb
	FIO_SECONDS=300 CHAOS_SECONDS=300 $(RUN) --timeout 3600 $(INTEGRATION) \
	  $(CHAOS_TEST) test/chaos/planted.sh $(VM_TESTS) $(VM_SLOW_TESTS)

# For so long, and again from a seed that was printed.
CHAOS_ENV = CHAOS_SECONDS=$(or $(SECONDS),60) $(if $(SEED),SEED=$(SEED))
chaos: all $(CHAOS)
	$(CHAOS_ENV) $(CHAOS_TEST)

chaos-vm: all $(CHAOS)
	$(CHAOS_ENV) test/vm/test_chaos.sh

# Figures and plots, in build/bench.
plot-squeeze: deps all $(TOOLS)
	test/bench/squeeze

bench-memcached: deps all $(TOOLS)
	test/bench/memcached_donor

bench-costs: deps all
	test/bench/costs

bench-stages: deps all
	test/bench/stages

# What test/bench/bench.py and the benchmarks say they take.
BENCH_VARIABLES = ROUNDS SECONDS DEPTHS CONNECTIONS PATTERNS THREADS MIB \
  APPS PERCENT CONTENDERS
bench_in_vm = test/vm/run --timeout 21600 --memory 3072 --disk 1G \
  --share $(O)/bench --env O=$(O) \
  $(foreach v,$(BENCH_VARIABLES),$(if $($(v)),--env $(v)='$($(v))'))
bench: deps all
	test/bench/host

LEAST = $(O)/test/bench/least.so
$(LEAST): $(O)/test/bench/least.o
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -shared -o $@ $^ $(shell pkg-config --libs libibverbs)

bench-vm: deps all $(LEAST)
	$(bench_in_vm) -- test/bench/vm

bench-writer: deps all
	$(bench_in_vm) --blank 256M,iops=150 --blank 256M,iops=500 \
	  --blank 256M,iops=1000 -- test/bench/writer

bench-apps: deps all
	$(bench_in_vm) --blank 256M,iops=150 --blank 256M,iops=20000 \
	  --blank 256M,iops=150 -- test/bench/apps

check-fresh:
	test/fresh

# The same tests over tcp on the host, with a build of their own.  The
# sanitizers' libraries must come first in nbdkit, which is not built with
# them.
sanitized = $(MAKE) O=$(O)/$(1) SAN='-fsanitize=$(2) -fno-omit-frame-pointer' \
  CFLAGS='-O1 -g' check-sanitized
preload = $(shell $(CC) -print-file-name=$(1))

check-asan:
	NBDKIT_PRELOAD=$(call preload,libasan.so) \
	ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 \
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  $(call sanitized,asan,address$(comma)undefined)

check-tsan:
	NBDKIT_PRELOAD=$(call preload,libtsan.so) \
	TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 \
	  $(call sanitized,tsan,thread)

comma = ,

.PHONY: check-sanitized
check-sanitized: $(PLUGIN) $(DONOR) $(CTL) $(UNIT)
	PLUGIN=$(PLUGIN) DONOR=$(DONOR) CTL=$(CTL) FIO_SECONDS=20 SLOWDOWN=5 \
	  $(RUN) $(UNIT_HOST) $(INTEGRATION_CHECKED)

VALGRIND = valgrind --quiet --error-exitcode=99 --leak-check=full \
  --errors-for-leak-kinds=definite --trace-children=no
check-valgrind: all $(UNIT)
	CK_FORK=no CK_DEFAULT_TIMEOUT=0 SLOWDOWN=20 \
	  test/run --log-dir $(O)/test-logs/valgrind --wrapper '$(VALGRIND)' \
	  $(UNIT_HOST)
	NBDKIT_WRAPPER='$(VALGRIND)' FIO_SECONDS=20 SLOWDOWN=20 \
	  test/run --log-dir $(O)/test-logs/valgrind $(INTEGRATION_CHECKED)

# ---- the rest ----

deps:
	@test/deps

DEMO_SECONDS ?= 540
demo: deps
	$(Q)$(MAKE) --no-print-directory demo-here

.PHONY: demo-here
demo-here: all $(TOOLS)
	@test/vm/run --timeout $(DEMO_SECONDS) --disk 1G --memory 2560 \
	  $(if $(PLANT),--env PLANT=$(PLANT)) -- test/vm/demo $(O)

install: all
	install -d $(DESTDIR)$(plugindir) $(DESTDIR)$(bindir) \
	  $(DESTDIR)$(sbindir) $(DESTDIR)$(mandir)/man1 \
	  $(DESTDIR)$(mandir)/man7 $(DESTDIR)$(docdir) $(DESTDIR)$(unitdir)
	install -m 0755 $(PLUGIN) $(DESTDIR)$(plugindir)
	install -m 0755 $(DONOR) $(DESTDIR)$(sbindir)
	install -m 0755 $(CTL) $(DESTDIR)$(bindir)
	install -m 0644 $(filter %.1,$(MANS)) $(DESTDIR)$(mandir)/man1
	install -m 0644 $(filter %.7,$(MANS)) $(DESTDIR)$(mandir)/man7
	install -m 0644 README.md DESIGN.md LICENSE $(wildcard conf/*.example \
	  conf/monitoring/*) \
	  $(DESTDIR)$(docdir)
	for unit in $(notdir $(wildcard conf/*.service)); do \
	  sed 's|@bindir@|$(bindir)|; s|@sbindir@|$(sbindir)|' conf/$$unit \
	    >$(DESTDIR)$(unitdir)/$$unit && \
	  chmod 0644 $(DESTDIR)$(unitdir)/$$unit || exit 1; done

# Debian packages, of what git knows here, in build/deb.
DEB = $(O)/deb
deb: deps
	@test/deps --deb
	rm -rf $(DEB) && mkdir -p $(DEB)/source
	git ls-files -z --cached --others --exclude-standard | \
	  xargs -0 cp --parents -t $(DEB)/source
	cd $(DEB)/source && env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL \
	  DEB_BUILD_OPTIONS=noautodbgsym \
	  dpkg-buildpackage -us -uc -b
	lintian --fail-on error,warning --allow-root $(DEB)/*.changes
	rm -rf $(DEB)/source

clean:
	rm -rf $(O)

help:
	@echo 'make deps               install what is missing, from Debian'
	@echo 'make                    build plugin, donor, infiniswapctl, manuals'
	@echo 'make demo               swap to three donors over Soft-RoCE in a VM'
	@echo 'make check              all tests: unit, integration, VM'
	@echo 'make check-unit         unit tests alone'
	@echo 'make check-integration  whole programs on this host, over tcp'
	@echo 'make check-vm           kernel swap over verbs in a VM'
	@echo 'make check-slow         integration for longer, more in VMs'
	@echo 'make chaos              a model test while all goes wrong, over tcp:'
	@echo '                        SECONDS=60 SEED=N (chaos-vm: over verbs)'
	@echo 'make plot-squeeze       a node needs the memory that its donor lends:'
	@echo '                        plots it, build/bench/squeeze.svg'
	@echo 'make bench              beside other ways, over tcp on this host:'
	@echo '                        a table, and JSON and plots in build/bench'
	@echo 'make bench-vm           the same in a VM, over verbs and kernel nbd'
	@echo 'make bench-writer       the local copy'\''s writer beside fio'
	@echo 'make bench-apps         programs that swap to each, in the same VM'
	@echo 'make bench-memcached    what lending costs a memcached of the node'
	@echo 'make bench-costs        what must not grow with device and donors'
	@echo 'make bench-stages       where the instructions of a 4K page go'
	@echo 'make check-fresh        README from nothing: a new Debian root'
	@echo 'make check-asan         unit and integration, ASan and UBSan'
	@echo 'make check-tsan         the same, ThreadSanitizer'
	@echo 'make check-valgrind     the same, valgrind'
	@echo 'make install            PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)'
	@echo 'make deb                Debian packages, in $(O)/deb'
	@echo 'make clean              remove $(O)/'
	@echo 'Variables: V=1 shows commands; O=DIR builds there; CC, CFLAGS,'
	@echo 'LDFLAGS as usual.  PREFIX=/usr lets nbdkit find the plugin by name.'

# Below build/ there may be a whole system as well (check-fresh).
-include $(shell find $(MODULES:%=$(O)/%) $(O)/test -name '*.d' 2>/dev/null)
