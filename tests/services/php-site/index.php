<?php
/*
 * A small site to protect. The pages calc, theme, cart and ping are holes on
 * purpose: each stands for a mistake real sites make (eval, include,
 * unserialize, system). None of them carries anything out: a hole prints
 * "HOLE REACHED", its name and what it was given, and writes the same to the
 * log, so that a test can see whether a request came through. They are targets for the firewall.
 */
declare(strict_types=1);

/** Prints and logs what reached a hole; the mark is what tests look for. */
function hole(string $name, string $payload): void
{
    error_log('HOLE REACHED: ' . $name . ' ' . json_encode($payload, JSON_INVALID_UTF8_SUBSTITUTE));
    echo '<p class="hole">HOLE REACHED: ', $name, ' ', htmlspecialchars($payload), '</p>';
}

/** A parameter of query or form as text; lists become nothing. */
function parameter(string $name, string $default = ''): string
{
    $value = $_POST[$name] ?? $_GET[$name] ?? $default;
    return is_string($value) ? $value : $default;
}

error_log('REQUEST: ' . $_SERVER['REQUEST_METHOD'] . ' ' . $_SERVER['REQUEST_URI']);
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) ?: '/';
$page = parameter('page', trim($path, '/') ?: 'home');

if ($page === 'status') {
    header('Content-Type: application/json');
    echo json_encode([
        'site' => 'php',
        'method' => $_SERVER['REQUEST_METHOD'],
        'uri' => $_SERVER['REQUEST_URI'],
        'client' => $_SERVER['HTTP_X_REAL_IP'] ?? $_SERVER['REMOTE_ADDR'],
        'headers' => getallheaders(),
        'body' => file_get_contents('php://input'),
    ]);
    return;
}

$known = ['home', 'search', 'guestbook', 'calc', 'theme', 'cart', 'ping'];
http_response_code(in_array($page, $known, true) ? 200 : 404);
header('Content-Type: text/html; charset=utf-8');
echo '<!doctype html><title>Corner shop</title><h1>Corner shop</h1>';

switch ($page) {
    case 'home':
        echo '<p>Open from nine to six. <a href="/search?q=tea">Search</a> ',
            '<a href="/guestbook">Guest book</a></p>';
        break;
    case 'search':
        $stock = ['green tea', 'black tea', 'coffee', 'O\'Brien\'s biscuits', 'select chocolate'];
        $wanted = parameter('q');
        $found = array_filter($stock, fn ($item) => $wanted !== '' && stripos($item, $wanted) !== false);
        echo '<p>', count($found), ' found for ', htmlspecialchars($wanted), '</p><ul>';
        foreach ($found as $item) {
            echo '<li>', htmlspecialchars($item), '</li>';
        }
        echo '</ul>';
        break;
    case 'guestbook':
        echo '<p>Thank you: ', htmlspecialchars(parameter('text', 'nothing yet')), '</p>';
        break;
    case 'calc': // stands for eval($_GET["code"])
        hole('eval', parameter('code'));
        break;
    case 'theme': // stands for include($_GET["file"])
        hole('include', parameter('file'));
        break;
    case 'cart': // stands for unserialize($_COOKIE["cart"])
        hole('unserialize', (string) ($_COOKIE['cart'] ?? ''));
        break;
    case 'ping': // stands for system("ping " . $_GET["host"])
        hole('system', parameter('host'));
        break;
    default:
        echo '<p>No such page.</p>';
}
