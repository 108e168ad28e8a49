/* Solve a quadratic assignment problem together with others, by branch and bound: qap INSTANCE DIRECTORY NAME
 *
 * INSTANCE is as in QAPLIB: n, the distances between n places, the flows between n facilities. What is sought is the
 * place of each facility so that the sum of flow times distance is least. In DIRECTORY, names are all that is shared:
 *   todo/I-J        a part that nobody has begun: all solutions with the first two facilities at I and J
 *   taken/I-J.NAME  one that this process, NAME, is at: whoever renames it there has it
 *   done/I-J        one that was searched; the nodes that it took stand in it
 *   best/COST       a solution: the places of the facilities stand in it. The least name bounds everybody's search.
 *   end             there will be no more to do
 * A process that is begun anew gives back what it had taken; one that goes on from an image finds the names as they were then.
 * The bound is that of Gilmore (1962) and Lawler (1963). */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 32 };

static int n, distance[MOST][MOST], flow[MOST][MOST];
static int near[MOST][MOST], near_to[MOST][MOST]; /* the places by their distance from one, and which they are */
static int place[MOST], used[MOST], best = INT_MAX;
static long nodes;
static const char *me;
static time_t looked;

static void fail(const char *what)
{
    fprintf(stderr, "qap: %s: %s\n", what, errno ? strerror(errno) : "not as expected");
    exit(1);
}

/* Others' solutions bound this search too, as far as they stand there now: one that has gone was taken back, as whoever
 * found it goes on from before that, and its part is searched again, by anybody. */
static void look(void)
{
    DIR *names = opendir("best");
    if (!names)
        fail("best");
    best = INT_MAX;
    for (struct dirent *each; (each = readdir(names));)
        if (each->d_name[0] != '.' && atoi(each->d_name) < best)
            best = atoi(each->d_name);
    closedir(names);
    looked = time(NULL);
}

static void write_file(const char *name, const char *text)
{
    char whole[300];
    snprintf(whole, sizeof whole, "new.%s", me); /* what stands in the directories is never half of it */
    FILE *file = fopen(whole, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) || rename(whole, name))
        fail(name);
}

static void found(int cost)
{
    char name[32], text[MOST * 4 + 1] = "";
    best = cost;
    for (int i = 0; i < n; i++)
        sprintf(text + strlen(text), "%d%c", place[i] + 1, i < n - 1 ? ' ' : '\n');
    snprintf(name, sizeof name, "best/%d", cost);
    write_file(name, text);
}

/* The least cost of an assignment of m rows to m columns: Jonker and Volgenant's shortest augmenting paths. */
static int assignment(int m, int cost[MOST][MOST])
{
    int row_price[MOST + 1] = {0}, column_price[MOST + 1] = {0}, row_of[MOST + 1] = {0}, from[MOST + 1];
    for (int row = 1; row <= m; row++) {
        int least[MOST + 1], seen[MOST + 1] = {0}, column = 0;
        for (int j = 0; j <= m; j++)
            least[j] = INT_MAX;
        row_of[0] = row;
        do {
            int at = row_of[column], step = INT_MAX, next = 0;
            seen[column] = 1;
            for (int j = 1; j <= m; j++)
                if (!seen[j]) {
                    int reduced = cost[at - 1][j - 1] - row_price[at] - column_price[j];
                    if (reduced < least[j])
                        least[j] = reduced, from[j] = column;
                    if (least[j] < step)
                        step = least[j], next = j;
                }
            for (int j = 0; j <= m; j++)
                if (seen[j])
                    row_price[row_of[j]] += step, column_price[j] -= step;
                else if (j)
                    least[j] -= step;
            column = next;
        } while (row_of[column]);
        for (; column; column = from[column])
            row_of[column] = row_of[from[column]];
    }
    return -column_price[0];
}

/* What no solution that begins with the first `depth` places can be below. */
static int bound(int depth, int cost)
{
    int m = n - depth, costs[MOST][MOST], flows[MOST][MOST], free_places[MOST], count = 0;
    for (int k = 0; k < n; k++)
        if (!used[k])
            free_places[count++] = k;
    for (int i = 0; i < m; i++) { /* each facility's flows to the others that are free, the largest first */
        count = 0;
        for (int j = depth; j < n; j++)
            if (j != depth + i) {
                int at = count++, value = flow[depth + i][j];
                for (; at && flows[i][at - 1] < value; at--)
                    flows[i][at] = flows[i][at - 1];
                flows[i][at] = value;
            }
    }
    for (int k = 0; k < m; k++) {
        int here = free_places[k], distances[MOST];
        count = 0;
        for (int j = 0; j < n; j++)
            if (!used[near_to[here][j]] && near_to[here][j] != here)
                distances[count++] = near[here][j];
        for (int i = 0; i < m; i++) {
            int sum = 0;
            for (int j = 0; j < m - 1; j++)
                sum += flows[i][j] * distances[j];
            for (int j = 0; j < depth; j++)
                sum += 2 * flow[depth + i][j] * distance[here][place[j]];
            costs[i][k] = sum;
        }
    }
    return cost + assignment(m, costs);
}

static void search(int depth, int cost)
{
    if (!(++nodes & 0xfff) && time(NULL) != looked)
        look();
    if (depth == n) {
        if (cost < best)
            found(cost);
        return;
    }
    for (int k = 0; k < n; k++) {
        if (used[k])
            continue;
        int more = cost;
        for (int j = 0; j < depth; j++)
            more += 2 * flow[depth][j] * distance[k][place[j]];
        if (more >= best)
            continue;
        used[k] = 1;
        place[depth] = k;
        if (depth + 1 == n || bound(depth + 1, more) < best)
            search(depth + 1, more);
        used[k] = 0;
    }
}

static void read_matrix(FILE *file, int matrix[MOST][MOST])
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            if (fscanf(file, "%d", &matrix[i][j]) != 1)
                fail("the instance");
}

/* What was taken under this name by one that has died is to do again. */
static void give_back(void)
{
    DIR *names = opendir("taken");
    if (!names)
        fail("taken");
    for (struct dirent *each; (each = readdir(names));) {
        char from[300], part[256], *dot = strrchr(each->d_name, '.');
        if (!dot || dot == each->d_name || strcmp(dot + 1, me))
            continue;
        snprintf(from, sizeof from, "taken/%s", each->d_name);
        snprintf(part, sizeof part, "todo/%.*s", (int)(dot - each->d_name), each->d_name);
        if (rename(from, part))
            fail(from);
    }
    closedir(names);
}

/* One part that nobody has begun, by its name; 0 if there will be none. */
static int take(char *part, char *taken)
{
    for (;;) {
        char from[300];
        int seen = 0, ends = !access("end", F_OK); /* before todo is read: what is put there comes before it */
        DIR *names = opendir("todo");
        if (!names)
            fail("todo");
        for (struct dirent *each; (each = readdir(names));) {
            if (each->d_name[0] == '.')
                continue;
            seen = 1;
            snprintf(from, sizeof from, "todo/%s", each->d_name);
            snprintf(taken, 600, "taken/%s.%s", each->d_name, me);
            if (!rename(from, taken)) {
                strcpy(part, each->d_name);
                closedir(names);
                return 1;
            }
            if (errno != ENOENT) /* another was first */
                fail(from);
        }
        closedir(names);
        if (!seen && ends)
            return 0;
        if (!seen)
            usleep(100000);
    }
}

int main(int argc, char **argv)
{
    char part[256], taken[600], done[300], text[32];
    FILE *file = argc == 4 ? fopen(argv[1], "r") : NULL;
    if (!file)
        fail(argc == 4 ? argv[1] : "qap INSTANCE DIRECTORY NAME");
    me = argv[3];
    if (fscanf(file, "%d", &n) != 1 || n < 3 || n > MOST)
        fail("the instance");
    read_matrix(file, distance);
    read_matrix(file, flow);
    fclose(file);
    if (chdir(argv[2]))
        fail(argv[2]);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) { /* by insertion */
            int at = j;
            for (; at && near[i][at - 1] > distance[i][j]; at--)
                near[i][at] = near[i][at - 1], near_to[i][at] = near_to[i][at - 1];
            near[i][at] = distance[i][j], near_to[i][at] = j;
        }
    give_back();
    while (take(part, taken)) {
        if (sscanf(part, "%d-%d", &place[0], &place[1]) != 2)
            fail(part);
        printf("%s\n", part);
        fflush(stdout);
        memset(used, 0, sizeof used);
        used[place[0]] = used[place[1]] = 1;
        nodes = 0;
        look();
        int cost = 2 * flow[0][1] * distance[place[0]][place[1]];
        if (bound(2, cost) < best)
            search(2, cost);
        snprintf(text, sizeof text, "%ld\n", nodes);
        snprintf(done, sizeof done, "done/%s", part);
        write_file(done, text);
        if (unlink(taken))
            fail(taken);
    }
    return 0;
}
