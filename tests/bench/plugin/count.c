/* Counts the guest's instructions by block of code, as a plugin of QEMU's translator (TCG).
 *
 *   -plugin FILE.so,out=PATH
 *
 * PATH becomes a file that any program can read while the machine runs; records are only ever added to it, and their
 * counts only rise, so the difference of two copies of the file is what happened in between. All words are 64 bits wide,
 * in the host's byte order:
 *
 *   head    0 magic   1 words in use   2 instructions that found no room for a record   3 unused
 *   record  0 address of the block     1 instructions in it, n       2 times executed
 *           3 times it was the repetition of its one instruction     4 ...  (n + 3) / 4 words: for each instruction its
 *           distance from the address, 16 bits each
 *
 * The translator executes a string instruction with a rep prefix as a block of one instruction that follows itself.
 * Silicon counts one instruction there, so these repetitions are kept apart.
 *
 * For machines with one virtual CPU: counts are not atomic. Only functions that are in every version of QEMU's plugin
 * interface are used; they are declared here because distributions do not ship the header. PLUGIN_VERSION comes from
 * the command line of the compiler. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*call)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*call)(unsigned, void *),
                                          enum qemu_plugin_cb_flags flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = PLUGIN_VERSION;

#define MAGIC 0x31544e4f43455246 /* FRECONT1 */
#define HEAD 4
#define FILE_BYTES (1ull << 30) /* sparse */
#define FILE_WORDS (FILE_BYTES / 8)
enum { ADDRESS, INSTRUCTIONS, EXECUTED, REPEATED, OFFSETS };

static uint64_t *words;
/* Address of the last instruction of the block that ran last. */
static uint64_t last_address;

static uint64_t address_of_last(const uint64_t *record)
{
	const uint16_t *offsets = (const uint16_t *)(record + OFFSETS);
	return record[ADDRESS] + offsets[record[INSTRUCTIONS] - 1];
}

static void executed(unsigned cpu, void *data)
{
	uint64_t *record = data;
	(void)cpu;
	record[EXECUTED]++;
	last_address = address_of_last(record);
}

static void executed_single(unsigned cpu, void *data)
{
	uint64_t *record = data;
	(void)cpu;
	record[last_address == record[ADDRESS] ? REPEATED : EXECUTED]++;
	last_address = record[ADDRESS];
}

static void executed_homeless(unsigned cpu, void *data)
{
	(void)cpu;
	words[2] += (uintptr_t)data;
}

static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
	uint64_t n = qemu_plugin_tb_n_insns(block);
	uint64_t size = OFFSETS + (n + 3) / 4;
	uint64_t *record = words + words[1];
	uint16_t *offsets = (uint16_t *)(record + OFFSETS);
	(void)id;
	if (n == 0)
		return;
	if (words[1] + size > FILE_WORDS) {
		qemu_plugin_register_vcpu_tb_exec_cb(block, executed_homeless, QEMU_PLUGIN_CB_NO_REGS,
		                                     (void *)(uintptr_t)n);
		return;
	}
	record[ADDRESS] = qemu_plugin_tb_vaddr(block);
	record[INSTRUCTIONS] = n;
	for (uint64_t i = 0; i < n; i++)
		offsets[i] = (uint16_t)(qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(block, i)) - record[ADDRESS]);
	/* The record is whole before anybody is told of it. */
	__atomic_store_n(&words[1], words[1] + size, __ATOMIC_RELEASE);
	qemu_plugin_register_vcpu_tb_exec_cb(block, n == 1 ? executed_single : executed, QEMU_PLUGIN_CB_NO_REGS, record);
}

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	int file = -1;
	(void)info;
	for (int i = 0; i < argc; i++)
		if (!strncmp(argv[i], "out=", 4))
			file = open(argv[i] + 4, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (file < 0 || ftruncate(file, FILE_BYTES))
		return -1;
	words = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	if (words == MAP_FAILED)
		return -1;
	words[1] = HEAD;
	words[0] = MAGIC;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
