# Infiniswap for stock kernels.  `make help` says what there is to make.

PREFIX ?= /usr/local
DESTDIR ?=
CC ?= gcc
O ?= build
V ?= 0

bindir = $(PREFIX)/bin
sbindir = $(PREFIX)/sbin
mandir = $(PREFIX)/share/man
docdir = $(PREFIX)/share/doc/infiniswap
plugindir = $(PREFIX)/lib/nbdkit/plugins
ifeq ($(PREFIX),/usr)
plugindir = $(shell pkg-config --variable=plugindir nbdkit)
endif

VERSION = 0.1.0
LIBS = glib-2.0 gio-unix-2.0 json-glib-1.0
FABRIC_LIBS = librdmacm libibverbs

CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu11 -Wall -Wextra -Werror -fPIC -fvisibility=hidden \
  -pthread -I. -D_GNU_SOURCE -DISW_VERSION='"$(VERSION)"' \
  $(shell pkg-config --cflags $(LIBS) $(FABRIC_LIBS) nbdkit check libnbd) \
  $(SAN) $(CFLAGS)
ALL_LDFLAGS = -pthread $(SAN) $(LDFLAGS)
ALL_LIBS = $(shell pkg-config --libs $(LIBS) $(FABRIC_LIBS)) -lm

ifeq ($(V),0)
Q = @
say = @printf '  %-5s %s\n' $(1) $(2);
endif

.PHONY: all deps demo check check-unit check-integration check-vm check-slow \
  check-fresh check-asan check-tsan check-valgrind install clean help

all:

# One archive a module, so that a test links what its module needs and
# no more; the order is the order of dependency.
MODULES = nbdkit-plugin donor fabric placement conf
archive = $(O)/lib$(1).a
nbdkit-plugin_MAIN = nbdkit-plugin/plugin.c nbdkit-plugin/config.c
donor_MAIN = donor/main.c
objects = $(patsubst %.c,$(O)/%.o,$(1))
module_objects = $(call objects,$(filter-out $($(1)_MAIN),$(wildcard $(1)/*.c)))

BASE = $(foreach m,fabric placement conf,$(call archive,$(m)))
PLUGIN = $(O)/nbdkit-infiniswap-plugin.so
DONOR = $(O)/infiniswap-donor
CTL = $(O)/infiniswapctl
MANS = $(patsubst %.pod,$(O)/%,$(notdir $(wildcard nbdkit-plugin/*.pod \
  donor/*.pod ctl/*.pod)))
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
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(ALL_LIBS)

$(CTL): $(call objects,$(wildcard ctl/*.c)) $(call archive,conf)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(ALL_LIBS)

# test/unit/MODULE/test_X.c links MODULE and what that depends on; other
# sources beside it that are not tests are linked into each.
unit_module = $(word 3,$(subst /, ,$(1)))
unit_helpers = $(call objects,$(filter-out %/test_%,$(wildcard $(1)/*.c)))
.SECONDEXPANSION:
$(UNIT): $(O)/%: $(O)/%.o \
  $$(call unit_helpers,$$(dir $$*)) \
  $$(call archive,$$(call unit_module,$$*)) $(BASE)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(ALL_LIBS) \
	  $(shell pkg-config --libs check)

$(TOOLS): $(O)/%: $(O)/%.o $(BASE)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(ALL_LIBS) \
	  $(shell pkg-config --libs libnbd)

$(O)/%: nbdkit-plugin/%.pod ; $(pod2man)
$(O)/%: donor/%.pod ; $(pod2man)
$(O)/%: ctl/%.pod ; $(pod2man)
define pod2man
	$(call say,MAN,$@)
	@mkdir -p $(@D)
	$(Q)podchecker -quiet $<
	$(Q)pod2man --section=$(subst .,,$(suffix $(basename $<))) \
	  --name=$(basename $(basename $(notdir $<))) \
	  --center=Infiniswap --release=$(VERSION) $< $@
endef

-include $(shell find $(O) -name '*.d' 2>/dev/null)
